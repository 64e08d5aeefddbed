"""One frame in, one frame out: `step_with_logits` and `generate`, on the exact streaming state.

Step s reads all frames before s and predicts the text and codebook 0 of frame s and, one frame late, the delayed
codebooks of frame s - 1. So a frame is complete one step later. Codes that the caller knows are forced, in any
mixture; the others (-2, free) are chosen by the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import GenerationConfig
from transformers.utils import ModelOutput

from ..memory.naive import MemoryDiagnostics
from ..special_ids import FREE_ID, NO_INPUT_ID
from ..transformer.adapted_linear import linear_of
from ..transformer.constants import constant
from .known_codes import begun_frames, known_codes, with_begun_frames
from .state import MoshiTTTState, with_own_codes_as_user


@dataclass(frozen=True)
class Sampling:
    """How free codes are chosen; the defaults are Kyutai's.

    Args:
        temperature, text_temperature: 0 takes the most likely code.
        top_k, text_top_k: the number of most likely codes that are drawn from, also where more are as likely.
        text_pad_bias: added to the text's logit of PAD (no word goes on): above 0 the model waits longer.
        text_epad_bias: added to that of EPAD (a word comes next): above 0 it speaks earlier and more.
        generator: source of the draws, on the model's device; or one a row, for rows whose draws are independent.

    Raises:
        ValueError: a temperature below 0, none at all to draw from, or a bias that is not finite.
    """

    temperature: float = 0.8
    top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25
    text_pad_bias: float = 0.0
    text_epad_bias: float = 0.0
    generator: torch.Generator | Sequence[torch.Generator] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("temperature", "text_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r}, but it must be 0 (the most likely code) or more.")
        for name in ("top_k", "text_top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}, but at least 1 code must be left to draw from.")
        for name in ("text_pad_bias", "text_epad_bias"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}, but it must be a finite number; 0 changes nothing.")

    @classmethod
    def from_generation_config(
        cls, config: GenerationConfig, generator: torch.Generator | None = None, **changes: float
    ) -> "Sampling":
        """The settings in a model's `generation_config`; `do_sample=False` takes the most likely codes.

        Args:
            changes: settings in place of those in the file.

        Raises:
            ValueError: a value that is no number, or as for the class itself.
        """
        values: dict[str, Any] = {name: getattr(config, name, None) for name in _SETTINGS}
        values = {name: value for name, value in values.items() if value is not None}
        if config.do_sample is False:
            values |= {"temperature": 0, "text_temperature": 0}
        values |= changes
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int if name.endswith("top_k") else (int, float)):
                kind = "whole number" if name.endswith("top_k") else "number"
                raise ValueError(f"{name}={value!r} in the generation config, but it must be a {kind}.")
        return cls(**values, generator=generator)

    def to_generation_config(self) -> GenerationConfig:
        """These settings in transformers' form, which is saved as generation_config.json."""
        return GenerationConfig(do_sample=True, **{name: getattr(self, name) for name in _SETTINGS})

    def draw(self, logits_BV: Tensor, is_text: bool, log_times_BN: Tensor | None = None) -> Tensor:
        """Ids `[B]` drawn from logits `[B, V]`.

        Args:
            log_times_BN: one of `log_times` for this draw off CPUs; drawn now if None.
        """
        temperature, top_k = (self.text_temperature, self.text_top_k) if is_text else (self.temperature, self.top_k)
        if temperature == 0:
            return logits_BV.argmax(-1)
        # transformers' TopKLogitsWarper keeps every code as likely as the k-th: in bfloat16 often more than k.
        if logits_BV.device.type != "cpu":
            times = log_times_BN
            if times is None:
                (times,) = self.log_times(1, len(logits_BV), logits_BV.device, logits_BV.shape[-1])
            assert times is not None  # as it draws
            return _earliest(logits_BV, temperature, top_k, times)
        probabilities = (logits_BV.float() / temperature).softmax(-1)
        likeliest, ids = probabilities.topk(min(top_k, probabilities.shape[-1]))
        return ids.gather(-1, self._drawn(likeliest))[:, 0]

    def log_times(self, draws: int, rows: int, device: torch.device, num_codes: int) -> list[Tensor | None]:
        """Logarithms of exponential times `[rows, N]` for each of some draws off CPUs, with N the largest top k; Nones
        on CPUs and where none is needed.

        Args:
            num_codes: the most codes that a draw is from, and so the most N.
        """
        if device.type == "cpu" or self.temperature == self.text_temperature == 0:
            return [None] * draws
        count = min(max(self.top_k, self.text_top_k), num_codes)
        return list(self._logs_drawn(torch.empty(draws, rows, count, device=device)))

    def _logs_drawn(self, times: Tensor) -> Tensor:
        """`[D, B, N]` filled."""
        if self.generator is None or isinstance(self.generator, torch.Generator):
            times.exponential_(generator=self.generator)
        else:
            for times_of_row, generator in zip(times.unbind(1), self.generator, strict=True):
                times_of_row.exponential_(generator=generator)
        return times.log_()

    def _drawn(self, weights_BN: Tensor) -> Tensor:
        """Indices `[B, 1]` drawn with these weights."""
        if self.generator is None or isinstance(self.generator, torch.Generator):
            return torch.multinomial(weights_BN, 1, generator=self.generator)
        rows = zip(weights_BN, self.generator, strict=True)
        return torch.stack([torch.multinomial(row_N, 1, generator=generator) for row_N, generator in rows])


def _earliest(logits_BV: Tensor, temperature: float, top_k: int, log_times_BN: Tensor) -> Tensor:
    """Ids `[B]` of the k most likely codes' earliest event, where code i has the rate exp(logit / temperature).

    It is code i with the probability of i, as in `torch.multinomial`, whose check of the weights makes the host wait.
    """
    likeliest, ids = logits_BV.topk(min(top_k, logits_BV.shape[-1]))
    earliness = torch.sub(likeliest, log_times_BN[:, : likeliest.shape[-1]], alpha=temperature)
    return ids.gather(-1, earliness.argmax(-1, keepdim=True))[:, 0]


_SETTINGS = tuple(item.name for item in fields(Sampling) if item.name != "generator")
GREEDY = Sampling(temperature=0, text_temperature=0)


@dataclass
class MoshiTTTStepOutput(ModelOutput):
    """One step of a stream, `[B, ...]`; Q is the number of Moshi's codebooks.

    Args:
        text_logits: `[B, V]`, for frame `frames[:, 0]`.
        audio_logits: `[B, Q, V]`, for frames `frames[:, 1:]`; NaN where that frame is before the stream's start.
        frames: `[B, 1 + Q]` int64, the frame that each of the logits predicts; negative before the start.
        codes: `[B, 1 + Q]` int64, the codes given or chosen for them.
        complete_codes: `[B, K]` int64, frame `frames.min()`, which now has all its codes; initial ids before the start.
        state: the state after this step.
        diagnostics: what the memory of each TTT layer did, in order of the layers, where asked for.
    """

    text_logits: Tensor | None = None
    audio_logits: Tensor | None = None
    frames: Tensor | None = None
    codes: Tensor | None = None
    complete_codes: Tensor | None = None
    state: MoshiTTTState | None = None
    diagnostics: tuple[MemoryDiagnostics, ...] | None = None


@dataclass
class MoshiTTTGenerateOutput(ModelOutput):
    """`codes` `[B, K, T]` of the generated frames, and the `state` that `generate` continues from."""

    codes: Tensor | None = None
    state: MoshiTTTState | None = None


class MoshiTTTStreamingMixin:
    """Streaming for `MoshiTTTForConditionalGeneration`."""

    if TYPE_CHECKING:  # what the model has
        config: Any
        generation_config: GenerationConfig
        model: Any
        lm_head: Any
        depth_decoder: Any
        init_state: Any
        initial_codes: Any
        forward: Any

    @classmethod
    def can_generate(cls) -> bool:
        """True, so transformers makes and saves a `generation_config`."""
        return True

    @torch.no_grad()
    def step_with_logits(
        self,
        codes_frame: Tensor,
        state: MoshiTTTState,
        sampling: Sampling = GREEDY,
        active_rows: Tensor | None = None,
        diagnostics: bool = False,
    ) -> MoshiTTTStepOutput:
        """One frame of a stream.

        Args:
            codes_frame: `[B, K]` int64, what is known of the next frame: an id, -1 for no input, or -2 for a code of
                Moshi's own rows that the model shall choose. The user's rows are never free.
            state: the stream so far; continue with the returned state. Its window may be written in place: `clone()` it
                first to go on from it a second time.
            active_rows: `[B]` bool, False for rows whose stream does not advance in this step.
            diagnostics: whether to return what the memory of each TTT layer did.

        Raises:
            ValueError: wrong shape or ids, a state without a window, or a `sampling` that is none or of other rows.
        """
        self.check_frame(codes_frame, state)
        require_sampling(sampling, state.batch_size)
        around = torch.cat([state.history, codes_frame[:, :, None]], dim=2)  # frames s - M - 1 .. s
        columns = _columns(self.config.delays, around)
        inputs, given = around.gather(2, columns).unbind(2)
        hidden, memory, window, memory_diagnostics = self.model(inputs[:, :, None], state, diagnostics)
        given = given[:, : 1 + self.config.num_codebooks]
        hidden = hidden[:, 0]
        text_logits = linear_of(self.lm_head, hidden)
        num_codes = max(self.config.text_vocab_size, self.config.codebook_size)
        log_times = iter(sampling.log_times(given.shape[1], len(hidden), hidden.device, num_codes))
        drawn_text = sampling.draw(self._with_biases(text_logits, sampling), True, next(log_times))
        audio_logits, codes = self.depth_decoder.step(
            hidden, drawn_text, given, lambda logits: sampling.draw(logits, False, next(log_times))
        )
        around.scatter_(2, columns[:, : codes.shape[1], 1:], codes[:, :, None])
        new = MoshiTTTState(memory, window, around[:, :, 1:], state.initial, state.frames + 1)
        frames = state.frames[:, None] - constant(self.config.delays[: codes.shape[1]], codes.device)
        return MoshiTTTStepOutput(
            text_logits=text_logits,
            audio_logits=audio_logits.masked_fill((frames[:, 1:] < 0)[..., None], torch.nan),
            frames=frames,
            codes=codes,
            complete_codes=around[:, :, 1],
            state=new if active_rows is None else new.keep_rows(active_rows, before=state),
            diagnostics=memory_diagnostics or None,
        )

    def _with_biases(self, text_logits_BV: Tensor, sampling: Sampling) -> Tensor:
        biases = {
            self.config.pad_token_id: sampling.text_pad_bias,
            self.config.end_pad_token_id: sampling.text_epad_bias,
        }
        if any(biases.values()):
            text_logits_BV = text_logits_BV.clone()
            for token, bias in biases.items():
                text_logits_BV[:, token] += bias
        return text_logits_BV

    def check_frame(self, codes_frame: Tensor, state: MoshiTTTState) -> None:
        """Whether `step_with_logits` takes a frame.

        Raises:
            ValueError: wrong shape or ids, or a state without a window.
        """
        expected = (state.batch_size, self.config.num_streams)
        if tuple(codes_frame.shape) != expected or codes_frame.dtype != torch.int64:
            raise ValueError(
                f"codes_frame must be int64 {list(expected)}; got {codes_frame.dtype} {list(codes_frame.shape)}."
            )
        if state.window is None:
            raise ValueError("This state has no attention window (window=False): stream from init_state(batch_size).")
        if codes_frame.device.type == "cpu" and not torch.compiler.is_compiling():
            own, user = 1 + self.config.num_codebooks, self.config.num_codebooks
            lowest = constant([FREE_ID] * own + [NO_INPUT_ID] * user, codes_frame.device)
            if not codes_frame.clamp(lowest, self.initial_codes(codes_frame.device)).equal(codes_frame):
                raise ValueError(
                    f"codes_frame must hold ids, -1 (no input) or, in Moshi's own rows, -2 (free); "
                    f"got {codes_frame.amin(0).tolist()} to {codes_frame.amax(0).tolist()} by row."
                )

    @torch.no_grad()
    def generate(
        self,
        codes: Tensor | None = None,
        state: MoshiTTTState | None = None,
        max_new_frames: int = 125,
        user_codes: Tensor | Literal["duplicate"] | None = None,
        sampling: Sampling | None = None,
        progress: bool = False,
        text_codes: Tensor | None = None,
    ) -> MoshiTTTGenerateOutput:
        """Continues a prompt or a stream, frame by frame.

        A model of audio alone has learned nothing about text, and an absent user only with `user_stream="none"`: give
        `text_codes` and `user_codes` as they were in its training.

        Args:
            codes: `[B, K, T]` prompt, or None to continue `state` as it is (or to start from nothing).
            state: the streams before the prompt, or None for fresh ones; it stays as it is. Each row goes on with its
                first frame that is not complete: after single steps, which it ends, the one that they began last.
            max_new_frames: frames of 80 ms; 0 reads the prompt alone and returns codes `[B, K, 0]`.
            user_codes: `[B, Q, max_new_frames + max_delay]`, the user's side of the new frames; `"duplicate"` for a
                copy of Moshi's, as in training on mono recordings with `user_stream="duplicate"`; absent (-1) if None.
            sampling: how codes are drawn; as the model's `generation_config` says if None.
            progress: whether to show a progress bar.
            text_codes: `[B, max_new_frames + max_delay]`, the text of the new frames, -2 where it is free; all free if
                None.

        Raises:
            ValueError: wrong shapes or ids, a number of frames below 0, a `sampling` that is none, or codes that are
                not those of a frame that the stream has begun.
        """
        if isinstance(max_new_frames, bool) or not isinstance(max_new_frames, int) or max_new_frames < 0:
            raise ValueError(f"max_new_frames={max_new_frames!r}, but it must be a whole number of frames, 0 or more.")
        sampling = Sampling.from_generation_config(self.generation_config) if sampling is None else sampling
        stream: MoshiTTTState = self.init_state(1 if codes is None else len(codes)) if state is None else state.clone()
        require_sampling(sampling, stream.batch_size)
        if codes is not None:
            stream = self.forward(codes, state=stream).state
        if max_new_frames == 0:
            return MoshiTTTGenerateOutput(codes=stream.history[:, :, :0], state=stream)
        begun = begun_frames(stream)
        known = known_codes(self.config, stream, max_new_frames, user_codes, text_codes)
        for column in range(max(begun)):
            self.check_frame(known[:, :, column], stream)
        is_duplicate, frames = isinstance(user_codes, str), []
        stream = with_begun_frames(stream, begun, known, has_user=user_codes is not None and not is_duplicate)
        begun_B = torch.tensor(begun, device=stream.frames.device)
        for column in tqdm(range(min(begun), known.shape[2]), desc="generate", unit="frame", disable=not progress):
            active_B = begun_B <= column
            stream = stream.with_own_codes_as_user(active_B) if is_duplicate else stream
            rows = None if column >= max(begun) else active_B  # from then on all rows stand at the same new frame
            drawn = sampling if rows is None else _of_active_rows(sampling, rows)
            output: Any = self.step_with_logits(known[:, :, column], stream, drawn, rows)
            stream = output.state
            frames.append(output.complete_codes)
        new = torch.stack(frames[-max_new_frames:], dim=2)
        return MoshiTTTGenerateOutput(codes=with_own_codes_as_user(new) if is_duplicate else new, state=stream)


def require_sampling(sampling: Any, num_rows: int | None = None) -> None:
    """Raises ValueError for what is no `Sampling`, or for one whose generators are those of another number of rows."""
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling={sampling!r}, but it must be a Sampling(temperature=..., top_k=...).")
    if num_rows is not None and isinstance(sampling.generator, Sequence) and len(sampling.generator) != num_rows:
        raise ValueError(
            f"sampling has {len(sampling.generator)} generators for {num_rows} rows: give one, or one a row."
        )


def _of_active_rows(sampling: Sampling, active_B: Tensor) -> Sampling:
    """The same draws, for which rows that rest do not use generators of their own."""
    if sampling.generator is None or isinstance(sampling.generator, torch.Generator):
        return sampling
    idle, rows = torch.Generator(active_B.device), zip(sampling.generator, active_B.tolist(), strict=True)
    return replace(sampling, generator=[own if active else idle for own, active in rows])


def _columns(delays: Sequence[int], around_BKT: Tensor) -> Tensor:
    """Where `around` holds each stream's last code to be read and the one that is given or drawn, `[B, K, 2]`."""
    batch, streams, frames = around_BKT.shape
    columns = constant([frames - back - delay for delay in delays for back in (2, 1)], around_BKT.device)
    return columns.view(1, streams, 2).expand(batch, -1, -1)
