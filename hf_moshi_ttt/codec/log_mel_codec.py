"""A small real audio codec after the interface of transformers' `MimiModel`: 24 kHz audio <-> codes, 12.5 frames/s.

For work where Kyutai's Mimi weights cannot be had: `AutoModel.from_pretrained` loads either codec, and `encode` and
`decode` are called alike. What differs from Mimi: nothing is trained by gradient descent. A frame is 8 sub-frames of 80
log-mel values from strictly causal windows, normalised, projected by PCA and quantised by residual k-means
(`log_mel_codec_fit` makes these tables); `decode` sums the centroids and runs Griffin-Lim on the magnitudes. All up to
the codes is computed in float64, so that codes depend neither on how a stream is cut into pieces, nor on other rows of
the batch, nor on reduced-precision matmul settings. The codes are not Mimi's: losses on them do not compare.

Axes: B batch, K codebooks, T frames, S samples, N sub-frames, W window, F frequency bins, M mel bands,
G log-mels of a frame (sub-frame major), D PCA width, V codebook size.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.audio_utils import mel_filter_bank
from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache, MimiDecoderOutput, MimiEncoderOutput
from transformers.utils.generic import can_return_tuple

from .configuration_log_mel_codec import LogMelCodecConfig, require

# Frames held in float64 at a time while encoding: about 60 MB of windows and spectra.
ENCODE_CHUNK_FRAMES = 256
# Frames whose phases are found together while decoding (one minute), and how far neighbouring chunks fade.
DECODE_CHUNK_FRAMES = 750
DECODE_FADE_FRAMES = 2
# Momentum of the fast Griffin-Lim iteration (Perraudin, Balazs and Sondergaard 2013).
GRIFFIN_LIM_MOMENTUM = 0.99
PHASE_SEED = 0


class LogMelCodecModel(PreTrainedModel):
    """The codec. It holds buffers only, so an optimizer or a sharding wrapper finds nothing to train in it.

    A model made without weights has random tables: its codes vary with the audio but carry little of it.
    """

    config: LogMelCodecConfig
    config_class = LogMelCodecConfig
    base_model_prefix = "log_mel_codec"
    main_input_name = "input_values"
    input_modalities = "audio"

    feature_mean: Tensor  # G
    feature_scale: Tensor  # G
    pca_basis: Tensor  # D G
    codebooks: Tensor  # K V D
    mel_filters: Tensor  # F M
    window: Tensor  # W

    def __init__(self, config: LogMelCodecConfig) -> None:
        super().__init__(config)
        num_bins = config.window_samples // 2 + 1
        self.register_buffer("feature_mean", torch.zeros(config.feature_dim))
        self.register_buffer("feature_scale", torch.ones(config.feature_dim))
        self.register_buffer("pca_basis", torch.empty(config.pca_dim, config.feature_dim))
        self.register_buffer("codebooks", torch.empty(config.num_quantizers, config.codebook_size, config.pca_dim))
        self.register_buffer("mel_filters", torch.empty(num_bins, config.num_mels), persistent=False)
        self.register_buffer("window", torch.empty(config.window_samples), persistent=False)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        config = self.config
        filters_FM = mel_filter_bank(
            len(self.mel_filters),
            config.num_mels,
            0.0,
            config.sampling_rate / 2,
            config.sampling_rate,
            mel_scale="slaney",
        )
        init.copy_(self.mel_filters, torch.from_numpy(filters_FM))
        init.copy_(self.window, torch.hann_window(config.window_samples, device="cpu"))
        init.zeros_(self.feature_mean)
        init.ones_(self.feature_scale)
        init.normal_(self.pca_basis, std=config.feature_dim**-0.5)
        init.normal_(self.codebooks)

    @property
    def device(self) -> torch.device:
        """Where the tables are; there are no parameters to ask."""
        return self.codebooks.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tables; there are no parameters to ask."""
        return self.codebooks.dtype

    def get_encoded_length(self, input_length: Tensor) -> Tensor:
        """Frames that `encode` returns for so many samples: an unfinished last frame counts."""
        return -(-input_length // self.config.frame_size)

    @can_return_tuple
    @torch.no_grad()
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_cache: None = None,
        padding_cache: MimiConv1dPaddingCache | None = None,
        use_streaming: bool | None = None,
    ) -> MimiEncoderOutput:
        """Audio to codes. The codes of a frame depend on no sample after its end.

        Args:
            input_values: `[B, 1, S]` in [-1, 1]; louder samples are taken as they are. An unfinished last frame is
                filled with zeros.
            padding_mask: `[B, S]` or `[B, 1, S]`, 0 where a sample is padding: it is then read as zero.
            num_quantizers: keep this many codebooks, coarse ones first; None keeps all.
            encoder_cache: only None, which the output holds too: Mimi's callers pass it on.
            padding_cache: what the stream's last call returned, updated in place; None starts a stream at silence.
            use_streaming: whether to return a cache; None follows the configuration, or the cache if one is given.

        Returns:
            `audio_codes` int64 `[B, K, ceil(S / frame_size)]`, and `padding_cache` when streaming, else None.

        Raises:
            ValueError: for wrong shapes or types, NaN or infinite samples, or a streamed piece of unfinished frames.
        """
        require(encoder_cache is None, "encoder_cache given", "None", "pass padding_cache instead")
        samples_B1S = self._checked_samples(input_values, padding_mask)
        kept_K = self.config.num_quantizers if num_quantizers is None else num_quantizers
        most_K = self.config.num_quantizers
        require(1 <= kept_K <= most_K, f"num_quantizers={kept_K}", f"1 to {most_K}", "fit a codec with more of them")
        streaming = self.config.use_streaming or padding_cache is not None if use_streaming is None else use_streaming
        if streaming:
            padding_cache = self._checked_cache(padding_cache, input_values)
            context_B1S = padding_cache.update(samples_B1S, 0)
        else:
            found = "use_streaming=False with a padding_cache"
            require(padding_cache is None, found, "True or None", "drop one of them")
            context_B1S = samples_B1S.new_zeros(len(samples_B1S), 1, self.config.context_samples)
        padded_BS = torch.cat([context_B1S, samples_B1S], dim=-1)[:, 0]
        codes_BKT = self.codes_of_padded(padded_BS, self.encoding_tables(kept_K))
        return MimiEncoderOutput(audio_codes=cast(torch.LongTensor, codes_BKT), padding_cache=padding_cache)

    @can_return_tuple
    @torch.no_grad()
    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, decoder_cache: None = None
    ) -> MimiDecoderOutput:
        """Codes to audio, each row by itself and without state: the same codes always give the same samples.

        Args:
            audio_codes: `[B, K', T]`, the coarsest K' codebooks.
            padding_mask: `[..., S]`: only its length counts, the audio is cut to S samples, as Mimi does.
            decoder_cache: only None, which the output holds too.

        Returns:
            `audio_values` float32 `[B, 1, T * frame_size]`.

        Raises:
            ValueError: for wrong shapes or types, or codes outside the codebooks.
        """
        require(decoder_cache is None, "decoder_cache given", "None", "decode keeps no state")
        log_mels_BTG = self.log_mels_of_codes(audio_codes)
        filters_MF = torch.linalg.pinv(self.mel_filters.double()).float()
        audio_BS = torch.stack([self._synthesize(row_TG, filters_MF) for row_TG in log_mels_BTG])
        if padding_mask is not None:
            audio_BS = audio_BS[:, : padding_mask.shape[-1]]
        return MimiDecoderOutput(audio_values=audio_BS[:, None])

    def encoding_tables(self, kept_K: int) -> "EncodingTables":
        """What encoding with so many codebooks reads, in float64; a stream makes it once."""
        codebooks_KVD = self.codebooks[:kept_K].double()
        half_squares_KV = codebooks_KVD.square().sum(dim=-1) / 2
        return EncodingTables(
            self.window.double(), self.mel_filters.double(), self.pca_basis.double().T, codebooks_KVD, half_squares_KV
        )

    @torch.no_grad()
    def codes_of_padded(self, padded_BS: Tensor, tables: "EncodingTables") -> Tensor:
        """Codes int64 `[B, K, T]` of samples that start with the `context_samples` before their first frame."""
        chunks = self._log_mel_chunks(padded_BS, tables)
        return torch.cat([self._quantize(chunk_BTG, tables) for chunk_BTG in chunks], dim=-1)

    @torch.no_grad()
    def log_mels(self, input_values: Tensor) -> Tensor:
        """Natural logarithms of the mel magnitudes of `[B, 1, S]`, float32 `[B, T, G]`: what `encode` quantises."""
        samples_B1S = self._checked_samples(input_values, None)
        padded_BS = functional.pad(samples_B1S, (self.config.context_samples, 0))[:, 0]
        chunks = self._log_mel_chunks(padded_BS, self.encoding_tables(0))
        return torch.cat([chunk_BTG.float() for chunk_BTG in chunks], dim=1)

    @torch.no_grad()
    def log_mels_of_codes(self, audio_codes: Tensor) -> Tensor:
        """The log-mels that codes `[B, K', T]` represent, float32 `[B, T, G]`, as in `log_mels`."""
        codes_BKT = self._checked_codes(audio_codes)
        latents_KBTD = [self.codebooks[k][codes_BKT[:, k]] for k in range(codes_BKT.shape[1])]
        normal_BTG = torch.stack(latents_KBTD).sum(dim=0) @ self.pca_basis
        return (normal_BTG * self.feature_scale + self.feature_mean).clamp(min=math.log(self.config.mel_floor))

    def _log_mel_chunks(self, padded_BS: Tensor, tables: "EncodingTables") -> Iterator[Tensor]:
        """Yields float64 `[B, t, G]` for successive frames; `padded_BS` starts with the context of the first."""
        config = self.config
        num_frames = (padded_BS.shape[-1] - config.context_samples) // config.frame_size
        step_frames = max(1, ENCODE_CHUNK_FRAMES // len(padded_BS))
        for start in range(0, num_frames, step_frames):
            stop = min(start + step_frames, num_frames)
            piece_BS = padded_BS[:, start * config.frame_size : stop * config.frame_size + config.context_samples]
            windows_BNW = piece_BS.double().unfold(-1, config.window_samples, config.subframe_samples)
            mels_BNM = torch.fft.rfft(windows_BNW * tables.window_W).abs() @ tables.filters_FM
            yield mels_BNM.clamp(min=config.mel_floor).log().reshape(len(padded_BS), stop - start, -1)

    def _quantize(self, log_mels_BTG: Tensor, tables: "EncodingTables") -> Tensor:
        """Codes `[B, K, T]`: each codebook takes the centroid nearest to what the coarser ones left over."""
        normal_BTG = (log_mels_BTG - self.feature_mean) / self.feature_scale
        residual_BTD = normal_BTG @ tables.pca_GD
        codes_KBT = []
        for codebook_VD, half_squares_V in zip(tables.codebooks_KVD, tables.half_squares_KV, strict=True):
            codes_KBT.append(_nearest(residual_BTD, codebook_VD, half_squares_V))
            residual_BTD = residual_BTD - codebook_VD[codes_KBT[-1]]
        return torch.stack(codes_KBT, dim=1)

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
        half_samples, hop_samples = self.config.window_samples // 2, self.config.subframe_samples
        num_samples = magnitudes_FN.shape[1] * hop_samples
        magnitudes_FN = functional.pad(magnitudes_FN, (0, math.ceil(half_samples / hop_samples)), mode="replicate")
        turns_FN = torch.rand(magnitudes_FN.shape, generator=torch.Generator().manual_seed(PHASE_SEED))
        spectrum_FN = torch.polar(magnitudes_FN, 2 * math.pi * turns_FN.to(magnitudes_FN.device))
        stft = partial(torch.stft, n_fft=2 * half_samples, hop_length=hop_samples, window=self.window)
        istft = partial(torch.istft, n_fft=2 * half_samples, hop_length=hop_samples, window=self.window)
        previous_FN = torch.zeros_like(spectrum_FN)
        for _ in range(self.config.griffin_lim_iterations):
            rebuilt_FN = stft(istft(spectrum_FN), pad_mode="constant", return_complex=True)
            ahead_FN = rebuilt_FN - GRIFFIN_LIM_MOMENTUM / (1 + GRIFFIN_LIM_MOMENTUM) * previous_FN
            spectrum_FN = magnitudes_FN * ahead_FN / ahead_FN.abs().clamp(min=1e-16)
            previous_FN = rebuilt_FN
        return istft(spectrum_FN)[half_samples - hop_samples :][:num_samples]

    def _checked_samples(self, input_values: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Float32 `[B, 1, S]` on the codec's device, masked, and filled with zeros to whole frames."""
        shape = list(input_values.shape)
        require(self.dtype == torch.float32, f"codec in {self.dtype}", "torch.float32", "load it with that dtype")
        mono = len(shape) == 3 and shape[1] == 1 and 0 not in shape
        require(mono, f"input_values has shape {shape}", "[B, 1, S] with S at least 1", "mix or batch the channels")
        real = input_values.is_floating_point()
        require(real, f"input_values is {input_values.dtype}", "floating point in [-1, 1]", "convert and scale it")
        bad = int((~torch.isfinite(input_values)).sum())
        require(bad == 0, f"input_values has {bad} NaN or infinite samples", "finite numbers", "clean the audio")
        samples_B1S = input_values.to(self.device, torch.float32)
        if padding_mask is not None:
            mask_B1S = padding_mask[:, None] if padding_mask.ndim == 2 else padding_mask
            found, same = f"padding_mask has shape {list(padding_mask.shape)}", list(mask_B1S.shape) == shape
            require(same, found, f"{shape} or {[shape[0], shape[2]]}", "one value per sample")
            samples_B1S = samples_B1S * mask_B1S.to(samples_B1S)
        return functional.pad(samples_B1S, (0, -shape[-1] % self.config.frame_size))

    def _checked_codes(self, audio_codes: Tensor) -> Tensor:
        """Int64 codes on the codec's device."""
        shape, most_K, size = list(audio_codes.shape), self.config.num_quantizers, self.config.codebook_size
        fits = len(shape) == 3 and 0 not in shape and shape[1] <= most_K
        allowed = f"[B, K, T] with K of 1 to {most_K} and T at least 1"
        require(fits, f"audio_codes has shape {shape}", allowed, "keep the coarsest codebooks")
        whole = not audio_codes.is_floating_point() and not audio_codes.is_complex() and audio_codes.dtype != torch.bool
        require(whole, f"audio_codes is {audio_codes.dtype}", "integers", "give codes, not embeddings")
        low, high = int(audio_codes.min()), int(audio_codes.max())
        found = f"audio_codes spans {low} to {high}"
        require(low >= 0 and high < size, found, f"0 to {size - 1}", "remove padding and special ids")
        return audio_codes.to(self.device, torch.int64)

    def _checked_cache(self, cache: MimiConv1dPaddingCache | None, input_values: Tensor) -> MimiConv1dPaddingCache:
        """The given cache or a fresh one: one "layer" that keeps the last `context_samples` samples of each row."""
        context_samples, frame_size = self.config.context_samples, self.config.frame_size
        rows, _, num_samples = input_values.shape
        found = f"a streamed piece has {num_samples} samples"
        require(num_samples % frame_size == 0, found, f"multiples of {frame_size}", "collect whole frames")
        if cache is None:
            return MimiConv1dPaddingCache(1, [context_samples], ["constant"], [1])
        own = cache.per_layer_padding == [context_samples]
        require(own, "padding_cache of another model", "this codec's own or None", "start a new stream")
        kept_B1S = cache.padding_cache[0]
        kept_rows = rows if kept_B1S is None else len(kept_B1S)
        found = f"padding_cache holds {kept_rows} rows, input_values {rows}"
        require(kept_rows == rows, found, "the same number", "start a new stream for a new batch")
        return cache


class EncodingTables(NamedTuple):
    """The codec's tables in float64: window, mel filters, PCA basis, codebooks, half their squared norms."""

    window_W: Tensor
    filters_FM: Tensor
    pca_GD: Tensor
    codebooks_KVD: Tensor
    half_squares_KV: Tensor


def nearest_centroids(points_XD: Tensor, centroids_VD: Tensor) -> Tensor:
    """Indices int64 `[...]` of the centroids nearest to `[..., D]` in Euclidean distance."""
    return _nearest(points_XD, centroids_VD, centroids_VD.square().sum(dim=-1) / 2)


def _nearest(points_XD: Tensor, centroids_VD: Tensor, half_squares_V: Tensor) -> Tensor:
    return (points_XD @ centroids_VD.T - half_squares_V).max(dim=-1).indices


AutoConfig.register(LogMelCodecConfig.model_type, LogMelCodecConfig)
AutoModel.register(LogMelCodecConfig, LogMelCodecModel)
