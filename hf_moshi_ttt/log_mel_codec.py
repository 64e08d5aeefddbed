"""A small real audio codec with the interface of transformers' `MimiModel`: 24 kHz audio <-> codes at 12.5 frames a second.

For development and tests where Kyutai's Mimi weights cannot be had: `AutoModel.from_pretrained` loads either codec, and
`encode` and `decode` are called alike. What is different from Mimi: nothing is trained by gradient descent. A frame is
8 sub-frames of 80 log-mel values from strictly causal windows, normalised, projected by PCA and quantised by residual
k-means (`log_mel_codec_fit` makes these tables); `decode` sums the centroids and runs Griffin-Lim on the magnitudes.
Everything up to the codes is computed in float64, so that codes depend neither on how a stream is cut into pieces, nor
on its neighbours in the batch, nor on reduced-precision matmul settings. Codes are not Mimi's: losses do not compare.

Axes: B batch, K codebooks, T frames, S samples, N sub-frames, M mel bands, F frequency bins, D PCA width, V codebook size.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.models.mimi.modeling_mimi import (
    MimiConv1dPaddingCache,
    MimiDecoderOutput,
    MimiEncoderOutput,
    MimiOutput,
)
from transformers.utils.generic import can_return_tuple

# Frames held in float64 at a time while encoding: about 60 MB of windows and spectra.
ENCODE_CHUNK_FRAMES = 256
# Frames whose phases are found together while decoding (one minute), and the faded overlap of neighbouring chunks.
DECODE_CHUNK_FRAMES = 750
DECODE_FADE_FRAMES = 2
# Momentum of the fast Griffin-Lim iteration (Perraudin, Balazs and Sondergaard 2013).
GRIFFIN_LIM_MOMENTUM = 0.99
PHASE_SEED = 0

# What `PreTrainedConfig` itself takes beside the declared fields, or writes to config.json.
_BASE_KEYWORDS = frozenset(
    {"model_type", "name_or_path", "_name_or_path", "_commit_hash", "torch_dtype", "num_labels", "output_attentions"}
    | {"attn_implementation", "experts_implementation"}
)


@strict
class LogMelCodecConfig(PreTrainedConfig):
    """Sizes of the codec; the names that Mimi's configuration has mean the same here.

    Args:
        sampling_rate: samples per second of the audio, in Hz.
        frame_rate: frames per second; must divide `sampling_rate`.
        subframes_per_frame: log-mel columns per frame; must divide the frame's samples.
        window_samples: length of the Hann window, which ends where its sub-frame ends. Even, and at least two sub-frames.
        num_mels: mel bands from 0 Hz to half the sampling rate.
        mel_floor: smallest mel magnitude kept; all below reads as silence. A full-scale sine reads `window_samples / 4`.
        pca_dim: width of the centroids, at most `subframes_per_frame * num_mels`.
        num_quantizers: residual codebooks, coarse to fine.
        codebook_size: centroids per codebook.
        griffin_lim_iterations: rounds of phase search in `decode`; 0 keeps the random start phases.
        use_streaming: what `encode` does when its own `use_streaming` is None.

    Raises:
        ValueError: for an unknown keyword or a value out of bounds.
    """

    model_type: ClassVar[str] = "log_mel_codec"

    sampling_rate: int = 24_000
    frame_rate: float | int = 12.5
    subframes_per_frame: int = 8
    window_samples: int = 1024
    num_mels: int = 80
    mel_floor: float = 1e-3
    pca_dim: int = 96
    num_quantizers: int = 8
    codebook_size: int = 2048
    griffin_lim_iterations: int = 32
    use_streaming: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - _BASE_KEYWORDS)
        if unknown:
            raise ValueError(
                f"LogMelCodecConfig has no {', '.join(unknown)}; its own fields: {', '.join(_own_fields())}"
            )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Checks the bounds of every field; run by `@strict` after construction.

        Raises:
            ValueError: with the value, what is allowed and what to change.
        """
        self._check_frame_sizes()
        self._check_range("num_mels", 1, self.window_samples // 2, "lower it or raise window_samples")
        self._check_range("pca_dim", 1, self.feature_dim, "lower it to at most subframes_per_frame * num_mels")
        self._check_range("num_quantizers", 1, 64, "Mimi has 8 to 32")
        self._check_range("codebook_size", 2, 1 << 16, "Mimi has 2048")
        self._check_range("griffin_lim_iterations", 0, 1000, "32 is enough for speech")
        if not 0.0 < self.mel_floor < self.window_samples / 4:
            raise ValueError(
                f"mel_floor={self.mel_floor}; allowed: above 0 and below window_samples / 4 = "
                f"{self.window_samples / 4:g} (a full-scale sine); 0.001 is near the noise of 16-bit audio"
            )

    def _check_range(self, name: str, low: int, high: int, remedy: str) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ValueError(f"{name}={value}; allowed: {low} to {high}; {remedy}")

    def _check_frame_sizes(self) -> None:
        self._check_range("sampling_rate", 1, 1_000_000, "give it in Hz")
        if self.frame_rate <= 0 or not (self.sampling_rate / self.frame_rate).is_integer():
            raise ValueError(
                f"frame_rate={self.frame_rate}; allowed: above 0 with sampling_rate={self.sampling_rate} an exact "
                "multiple of it; 12.5 divides 24000"
            )
        self._check_range("subframes_per_frame", 1, self.frame_size, "8 sub-frames of 10 ms suit speech")
        if self.frame_size % self.subframes_per_frame:
            raise ValueError(
                f"subframes_per_frame={self.subframes_per_frame}; allowed: divisors of the frame's {self.frame_size} "
                "samples; 8 divides 1920"
            )
        low, high = 2 * self.subframe_samples, 1 << 16
        if self.window_samples % 2 or not low <= self.window_samples <= high:
            raise ValueError(
                f"window_samples={self.window_samples}; allowed: even, {low} to {high}; below two sub-frames "
                "(subframe_samples each) the windows cannot be put together again"
            )

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return int(self.sampling_rate / self.frame_rate)

    @property
    def subframe_samples(self) -> int:
        """Samples per sub-frame: the hop of the windows."""
        return self.frame_size // self.subframes_per_frame

    @property
    def context_samples(self) -> int:
        """Samples before a frame that its first window reaches back to."""
        return self.window_samples - self.subframe_samples

    @property
    def feature_dim(self) -> int:
        """Log-mel values per frame."""
        return self.subframes_per_frame * self.num_mels

    @property
    def num_codebooks(self) -> int:
        """Mimi's other name for `num_quantizers`."""
        return self.num_quantizers


def _own_fields() -> list[str]:
    return [name for name in LogMelCodecConfig.__annotations__ if name != "model_type"]


class LogMelCodecModel(PreTrainedModel):
    """The codec. It holds buffers only, so an optimizer or a sharding wrapper finds nothing to train in it.

    A model made from a configuration alone has random tables: its codes vary with the audio but carry little of it.
    """

    config: LogMelCodecConfig
    config_class = LogMelCodecConfig
    base_model_prefix = "log_mel_codec"
    main_input_name = "input_values"
    input_modalities = "audio"

    feature_mean: Tensor
    feature_scale: Tensor
    pca_basis: Tensor
    codebooks: Tensor
    mel_filters: Tensor
    window: Tensor

    def __init__(self, config: LogMelCodecConfig) -> None:
        super().__init__(config)
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_scale", torch.ones(config.feature_dim))
        self.register_buffer("pca_basis", torch.empty(config.pca_dim, config.feature_dim))
        self.register_buffer("codebooks", torch.empty(config.num_quantizers, config.codebook_size, config.pca_dim))
        filters_FM = torch.empty(config.window_samples // 2 + 1, config.num_mels)
        self.register_buffer("mel_filters", filters_FM, persistent=False)
        self.register_buffer("window", torch.empty(config.window_samples), persistent=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        if module is not self:
            return
        init.zeros_(self.feature_mean)
        init.ones_(self.feature_scale)
        init.normal_(self.pca_basis, std=self.config.feature_dim**-0.5)
        init.normal_(self.codebooks)
        init.copy_(self.mel_filters, _mel_filters_FM(self.config))
        init.copy_(self.window, torch.hann_window(self.config.window_samples, device="cpu"))

    @property
    def device(self) -> torch.device:
        """Where the tables are; there are no parameters to ask."""
        return self.codebooks.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tables; there are no parameters to ask."""
        return self.codebooks.dtype

    def get_encoded_length(self, input_length: Tensor) -> Tensor:
        """Frames that `encode` returns for so many samples: the last frame is filled with zeros."""
        return -(-input_length // self.config.frame_size)

    @can_return_tuple
    @torch.no_grad()
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_past_key_values: None = None,
        padding_cache: MimiConv1dPaddingCache | None = None,
        use_streaming: bool | None = None,
    ) -> MimiEncoderOutput:
        """Audio to codes. Codes of frame t depend on no sample after the frame's end.

        Args:
            input_values: `[B, 1, S]` in [-1, 1]; louder samples are taken as they are.
            padding_mask: `[B, S]` or `[B, 1, S]`, 0 where a sample is padding: it is then read as zero.
            num_quantizers: keep this many codebooks, coarse ones first; None keeps all.
            encoder_past_key_values: only None, which is what the output holds; there so that callers of Mimi need no branch.
            padding_cache: what the last call of a stream returned; None starts a stream at silence. It is updated in place.
            use_streaming: whether to return a `padding_cache`; None follows the configuration, or the cache if one is given.

        Returns:
            `audio_codes` int64 `[B, K, ceil(S / frame_size)]`, and `padding_cache` when streaming, else None.

        Raises:
            ValueError: for wrong shapes or types, NaN or infinite samples, or a streamed piece of unfinished frames.
        """
        if encoder_past_key_values is not None:
            raise ValueError(
                "encoder_past_key_values was given; allowed: None; this codec's only state is padding_cache"
            )
        samples_B1S = self._checked_samples(input_values, padding_mask)
        kept_K = self._checked_quantizers(num_quantizers)
        if use_streaming is None:
            use_streaming = self.config.use_streaming or padding_cache is not None
        if use_streaming:
            padding_cache = self._checked_cache(padding_cache, input_values)
            context_B1S = padding_cache.update(samples_B1S, 0)
        elif padding_cache is not None:
            raise ValueError("use_streaming=False with a padding_cache; allowed: None or True; drop one of the two")
        else:
            context_B1S = samples_B1S.new_zeros(len(samples_B1S), 1, self.config.context_samples)
        chunks = self._log_mel_chunks(torch.cat([context_B1S, samples_B1S], dim=-1)[:, 0])
        codes_BKT = torch.cat([self._quantize(chunk_BTG, kept_K) for chunk_BTG in chunks], dim=-1)
        return MimiEncoderOutput(audio_codes=codes_BKT, padding_cache=padding_cache)

    @can_return_tuple
    @torch.no_grad()
    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, decoder_past_key_values: None = None
    ) -> MimiDecoderOutput:
        """Codes to audio, each row by itself and without state: the same codes always give the same samples.

        Args:
            audio_codes: `[B, K', T]`, the coarsest K' codebooks.
            padding_mask: `[..., S]`: only its length counts, the audio is cut to S samples, as Mimi does.
            decoder_past_key_values: only None, which is what the output holds.

        Returns:
            `audio_values` float32 `[B, 1, T * frame_size]`.

        Raises:
            ValueError: for wrong shapes or types, or codes outside the codebooks.
        """
        if decoder_past_key_values is not None:
            raise ValueError("decoder_past_key_values was given; allowed: None; decode keeps no state between calls")
        log_mels_BTG = self.dequantize(audio_codes)
        filters_MF = torch.linalg.pinv(self.mel_filters.double()).float()
        audio_BS = torch.stack([self._synthesize(row_TG, filters_MF) for row_TG in log_mels_BTG])
        if padding_mask is not None:
            audio_BS = audio_BS[:, : padding_mask.shape[-1]]
        return MimiDecoderOutput(audio_values=audio_BS[:, None])

    def forward(
        self, input_values: Tensor, padding_mask: Tensor | None = None, num_quantizers: int | None = None
    ) -> MimiOutput:
        """`encode` then `decode`; the audio is cut to `padding_mask`'s length where one is given."""
        codes_BKT = self.encode(input_values, padding_mask, num_quantizers, return_dict=True).audio_codes
        audio_B1S = self.decode(codes_BKT, padding_mask, return_dict=True).audio_values
        return MimiOutput(audio_codes=codes_BKT, audio_values=audio_B1S)

    @torch.no_grad()
    def log_mels(self, input_values: Tensor) -> Tensor:
        """Natural logarithms of mel magnitudes, float32 `[B, T, G]` of `[B, 1, S]`; G is sub-frames times mels."""
        samples_B1S = self._checked_samples(input_values, None)
        padded_BS = functional.pad(samples_B1S, (self.config.context_samples, 0))[:, 0]
        return torch.cat([chunk_BTG.float() for chunk_BTG in self._log_mel_chunks(padded_BS)], dim=1)

    @torch.no_grad()
    def dequantize(self, audio_codes: Tensor) -> Tensor:
        """The log-mels that codes `[B, K', T]` stand for, float32 `[B, T, G]`, as in `log_mels`."""
        self._check_codes(audio_codes)
        latents_BTD = sum(self.codebooks[k][audio_codes[:, k]] for k in range(audio_codes.shape[1]))
        log_mels_BTG = (latents_BTD @ self.pca_basis) * self.feature_scale + self.feature_mean
        return log_mels_BTG.clamp(min=math.log(self.config.mel_floor))

    def _log_mel_chunks(self, padded_BS: Tensor) -> Iterator[Tensor]:
        """Yields float64 `[B, t, G]` for successive frames; `padded_BS` starts with the context of the first."""
        config = self.config
        window_W, filters_FM = self.window.double(), self.mel_filters.double()
        num_frames = (padded_BS.shape[-1] - config.context_samples) // config.frame_size
        step_frames = max(1, ENCODE_CHUNK_FRAMES // len(padded_BS))
        for start in range(0, num_frames, step_frames):
            stop = min(start + step_frames, num_frames)
            piece_BS = padded_BS[:, start * config.frame_size : stop * config.frame_size + config.context_samples]
            windows_BNW = piece_BS.double().unfold(-1, config.window_samples, config.subframe_samples)
            mels_BNM = torch.fft.rfft(windows_BNW * window_W).abs() @ filters_FM
            yield mels_BNM.clamp(min=config.mel_floor).log().reshape(len(padded_BS), stop - start, -1)

    def _quantize(self, log_mels_BTG: Tensor, kept_K: int) -> Tensor:
        """Codes `[B, kept_K, T]`: each codebook takes the centroid nearest to what the coarser ones left over."""
        normal_BTG = (log_mels_BTG - self.feature_mean) / self.feature_scale
        residual_BTD = normal_BTG @ self.pca_basis.double().T
        codes_BT = []
        for codebook_VD in self.codebooks[:kept_K].double():
            scores_BTV = residual_BTD @ codebook_VD.T - codebook_VD.square().sum(dim=-1) / 2
            codes_BT.append(scores_BTV.argmax(dim=-1))
            residual_BTD = residual_BTD - codebook_VD[codes_BT[-1]]
        return torch.stack(codes_BT, dim=1)

    def _synthesize(self, log_mels_TG: Tensor, filters_MF: Tensor) -> Tensor:
        """Samples `[T * frame_size]`, found in chunks that fade into each other with constant power."""
        frame_size = self.config.frame_size
        audio_S = log_mels_TG.new_zeros(len(log_mels_TG) * frame_size)
        for start in range(0, len(log_mels_TG), DECODE_CHUNK_FRAMES):
            first = max(0, start - DECODE_FADE_FRAMES)
            mels_NM = log_mels_TG[first : start + DECODE_CHUNK_FRAMES].exp().reshape(-1, self.config.num_mels)
            piece_S = self._griffin_lim((mels_NM @ filters_MF).clamp(min=0.0).T)
            rise_S = torch.linspace(0.0, 1.0, (start - first) * frame_size, device=audio_S.device)
            piece_S[: len(rise_S)] *= rise_S.sqrt()
            audio_S[first * frame_size : start * frame_size] *= (1.0 - rise_S).sqrt()
            audio_S[first * frame_size :][: len(piece_S)] += piece_S
        return audio_S

    def _griffin_lim(self, magnitudes_FN: Tensor) -> Tensor:
        """Samples `[N * subframe_samples]` whose causal windows have about these magnitudes.

        `torch.istft` drops half a window on either side, so the last column is repeated to cover the end.
        """
        config = self.config
        half_samples, hop_samples = config.window_samples // 2, config.subframe_samples
        num_samples = magnitudes_FN.shape[1] * hop_samples
        extra = math.ceil(half_samples / hop_samples)
        magnitudes_FN = torch.cat([magnitudes_FN, magnitudes_FN[:, -1:].expand(-1, extra)], dim=1)
        generator = torch.Generator().manual_seed(PHASE_SEED)
        turns_FN = torch.rand(magnitudes_FN.shape, generator=generator).to(magnitudes_FN)
        phases_FN = torch.polar(torch.ones_like(turns_FN), 2 * math.pi * turns_FN)
        sizes = {"n_fft": config.window_samples, "hop_length": hop_samples, "window": self.window, "center": True}
        previous_FN = torch.zeros_like(phases_FN)
        for _ in range(config.griffin_lim_iterations):
            rebuilt_FN = torch.stft(
                torch.istft(magnitudes_FN * phases_FN, **sizes), pad_mode="constant", return_complex=True, **sizes
            )
            ahead_FN = rebuilt_FN - GRIFFIN_LIM_MOMENTUM / (1 + GRIFFIN_LIM_MOMENTUM) * previous_FN
            phases_FN = ahead_FN / ahead_FN.abs().clamp(min=1e-16)
            previous_FN = rebuilt_FN
        audio_S = torch.istft(magnitudes_FN * phases_FN, **sizes)
        return audio_S[half_samples - hop_samples :][:num_samples]

    def _checked_samples(self, input_values: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Float32 `[B, 1, S]` on the codec's device, masked, and filled with zeros to whole frames."""
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"the codec's tables are {self.dtype}; allowed: float32; load it with dtype=torch.float32")
        if input_values.ndim != 3 or input_values.shape[1] != 1 or 0 in input_values.shape:
            raise ValueError(
                f"input_values has shape {list(input_values.shape)}; allowed: [B, 1, S] with S at least 1; "
                "mix channels to one, or put them into B"
            )
        if not input_values.is_floating_point():
            raise ValueError(
                f"input_values is {input_values.dtype}; allowed: floating point in [-1, 1]; scale it first"
            )
        bad = int((~torch.isfinite(input_values)).sum())
        if bad:
            raise ValueError(
                f"input_values has {bad} NaN or infinite samples; allowed: finite numbers; clean the audio"
            )
        samples_B1S = input_values.to(self.device, torch.float32)
        if padding_mask is not None:
            samples_B1S = samples_B1S * _mask_B1S(padding_mask, samples_B1S)
        return functional.pad(samples_B1S, (0, -samples_B1S.shape[-1] % self.config.frame_size))

    def _checked_quantizers(self, num_quantizers: int | None) -> int:
        if num_quantizers is None:
            return self.config.num_quantizers
        if not 1 <= num_quantizers <= self.config.num_quantizers:
            raise ValueError(
                f"num_quantizers={num_quantizers}; allowed: 1 to {self.config.num_quantizers}; fit a codec with more"
            )
        return int(num_quantizers)

    def _check_codes(self, audio_codes: Tensor) -> None:
        most_K, size = self.config.num_quantizers, self.config.codebook_size
        if audio_codes.ndim != 3 or 0 in audio_codes.shape or audio_codes.shape[1] > most_K:
            raise ValueError(
                f"audio_codes has shape {list(audio_codes.shape)}; allowed: [B, K, T] with K of 1 to {most_K} and T at "
                "least 1; keep the coarsest codebooks"
            )
        if audio_codes.dtype not in (torch.int16, torch.int32, torch.int64):
            raise ValueError(f"audio_codes is {audio_codes.dtype}; allowed: int16, int32, int64; cast it")
        low, high = int(audio_codes.min()), int(audio_codes.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"audio_codes spans {low} to {high}; allowed: 0 to {size - 1}; remove padding and special ids"
            )

    def _checked_cache(self, cache: MimiConv1dPaddingCache | None, input_values: Tensor) -> MimiConv1dPaddingCache:
        """The given cache or a fresh one: one "layer" that keeps the last `context_samples` samples of each row."""
        context_samples, frame_size = self.config.context_samples, self.config.frame_size
        if input_values.shape[-1] % frame_size:
            raise ValueError(
                f"a streamed piece has {input_values.shape[-1]} samples; allowed: multiples of {frame_size}; "
                "collect whole frames, and fill the last one with zeros"
            )
        if cache is None:
            return MimiConv1dPaddingCache(1, [context_samples], ["constant"], [1])
        kept_B1S = cache.padding_cache[0]
        if len(cache.padding_cache) != 1 or cache.per_layer_padding != [context_samples]:
            raise ValueError("padding_cache is another model's; allowed: what this codec's encode returned, or None")
        if kept_B1S is not None and len(kept_B1S) != len(input_values):
            raise ValueError(
                f"padding_cache holds {len(kept_B1S)} rows, input_values {len(input_values)}; allowed: the same number; "
                "start a new stream for a new batch"
            )
        return cache


def _mel_filters_FM(config: LogMelCodecConfig) -> Tensor:
    filters_FM = mel_filter_bank(
        num_frequency_bins=config.window_samples // 2 + 1,
        num_mel_filters=config.num_mels,
        min_frequency=0.0,
        max_frequency=config.sampling_rate / 2,
        sampling_rate=config.sampling_rate,
        mel_scale="slaney",
    )
    return torch.from_numpy(filters_FM).float()


def _mask_B1S(padding_mask: Tensor, samples_B1S: Tensor) -> Tensor:
    mask_B1S = padding_mask[:, None] if padding_mask.ndim == 2 else padding_mask
    if mask_B1S.shape != samples_B1S.shape:
        batch, _, length = samples_B1S.shape
        raise ValueError(
            f"padding_mask has shape {list(padding_mask.shape)}; allowed: [{batch}, {length}] or [{batch}, 1, {length}], "
            "as input_values"
        )
    return mask_B1S.to(samples_B1S)


AutoConfig.register(LogMelCodecConfig.model_type, LogMelCodecConfig)
AutoModel.register(LogMelCodecConfig, LogMelCodecModel)
