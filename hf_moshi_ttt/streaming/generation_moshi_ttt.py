"""One frame in, one frame out: `step_with_logits` and `generate`, on the exact streaming state.

Step s reads all frames before s and predicts the text and codebook 0 of frame s and, one frame late, the delayed
codebooks of frame s - 1. So a frame is complete one step later. Codes that the caller knows are forced, in any
mixture; the others (-2, free) are chosen by the model.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from ..memory.naive import MemoryDiagnostics
from ..special_ids import FREE_ID, NO_INPUT_ID
from ..transformer.constants import constant
from .state import MoshiTTTState


@dataclass(frozen=True)
class Sampling:
    """How free codes are chosen; the defaults are Kyutai's.

    Args:
        temperature, text_temperature: 0 takes the most likely code.
        top_k, text_top_k: the number of most likely codes that are drawn from, also where more are as likely.
        generator: source of the draws, on the model's device.

    Raises:
        ValueError: a temperature below 0, or none at all to draw from.
    """

    temperature: float = 0.8
    top_k: int = 250
    text_temperature: float = 0.7
    text_top_k: int = 25
    generator: torch.Generator | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("temperature", "text_temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r}, but it must be 0 (the most likely code) or more.")
        for name in ("top_k", "text_top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r}, but at least 1 code must be left to draw from.")

    def draw(self, logits_BV: Tensor, is_text: bool) -> Tensor:
        """Ids `[B]` drawn from logits `[B, V]`."""
        temperature, top_k = (self.text_temperature, self.text_top_k) if is_text else (self.temperature, self.top_k)
        if temperature == 0:
            return logits_BV.argmax(-1)
        probabilities = (logits_BV.float() / temperature).softmax(-1)
        # transformers' TopKLogitsWarper keeps every code as likely as the k-th: in bfloat16 often more than k.
        likeliest, ids = probabilities.topk(min(top_k, probabilities.shape[-1]))
        return ids.gather(-1, torch.multinomial(likeliest, 1, generator=self.generator))[:, 0]


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
        model: Any
        lm_head: Any
        depth_decoder: Any
        init_state: Any
        initial_codes: Any
        forward: Any

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
            state: the stream so far; continue with the returned state.
            active_rows: `[B]` bool, False for rows whose stream does not advance in this step.
            diagnostics: whether to return what the memory of each TTT layer did.

        Raises:
            ValueError: wrong shape or ids, or a state without a window.
        """
        self._check_frame(codes_frame, state)
        delays = constant(self.config.delays, codes_frame.device)
        around = torch.cat([state.history, codes_frame[:, :, None]], dim=2)  # frames s - M - 1 .. s
        newest = around.shape[2] - 1
        inputs = _at_delay(around, newest - 1 - delays)
        hidden, memory, window, memory_diagnostics = self.model(inputs[:, :, None], state, diagnostics)
        given = _at_delay(around, newest - delays)[:, : 1 + self.config.num_codebooks]
        hidden = hidden[:, 0]
        text_logits = self.lm_head(hidden)
        drawn_text = sampling.draw(text_logits, is_text=True)
        audio_logits, codes = self.depth_decoder.step(
            hidden, drawn_text, given, lambda logits: sampling.draw(logits, is_text=False)
        )
        around = _with_codes(around, codes, newest - delays[: codes.shape[1]])
        new = MoshiTTTState(memory, window, around[:, :, 1:], state.initial, state.frames + 1)
        frames = state.frames[:, None] - delays[: codes.shape[1]]
        return MoshiTTTStepOutput(
            text_logits=text_logits,
            audio_logits=audio_logits.masked_fill((frames[:, 1:] < 0)[..., None], torch.nan),
            frames=frames,
            codes=codes,
            complete_codes=around[:, :, newest - self.config.max_delay_frames],
            state=new if active_rows is None else new.keep_rows(active_rows, before=state),
            diagnostics=memory_diagnostics or None,
        )

    def _check_frame(self, codes_frame: Tensor, state: MoshiTTTState) -> None:
        expected = (state.batch_size, self.config.num_streams)
        if tuple(codes_frame.shape) != expected or codes_frame.dtype != torch.int64:
            raise ValueError(
                f"codes_frame must be int64 {list(expected)}; got {codes_frame.dtype} {list(codes_frame.shape)}."
            )
        if state.window is None:
            raise ValueError("This state has no attention window (window=False): stream from init_state(batch_size).")
        if codes_frame.device.type == "cpu":
            own, user = 1 + self.config.num_codebooks, self.config.num_codebooks
            lowest = constant([FREE_ID] * own + [NO_INPUT_ID] * user, codes_frame.device)
            if not ((codes_frame >= lowest) & (codes_frame <= self.initial_codes())).all():
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
        user_codes: Tensor | None = None,
        sampling: Sampling | None = None,
        progress: bool = False,
    ) -> MoshiTTTGenerateOutput:
        """Continues a prompt or a stream, frame by frame.

        Args:
            codes: `[B, K, T]` prompt, or None to continue `state` as it is (or to start from nothing).
            state: the stream before the prompt, or None for a fresh one.
            max_new_frames: frames of 80 ms; 0 reads the prompt alone and returns codes `[B, K, 0]`.
            user_codes: `[B, Q, max_new_frames + max_delay]`, the user's side of the new frames; absent (-1) if None.
            sampling: how codes are drawn; Kyutai's temperatures if None.
            progress: whether to show a progress bar.

        Raises:
            ValueError: wrong shapes or ids, or a number of frames below 0.
        """
        if isinstance(max_new_frames, bool) or not isinstance(max_new_frames, int) or max_new_frames < 0:
            raise ValueError(f"max_new_frames={max_new_frames!r}, but it must be a whole number of frames, 0 or more.")
        sampling = sampling or Sampling()
        stream: MoshiTTTState = state or self.init_state(1 if codes is None else codes.shape[0])
        if codes is not None:
            stream = self.forward(codes, state=stream).state
        if max_new_frames == 0:
            return MoshiTTTGenerateOutput(codes=stream.history[:, :, :0], state=stream)
        steps = max_new_frames + self._steps_ahead(stream)
        user = self._user_frames(user_codes, stream, steps)
        frames: list[Any] = []
        for step in tqdm(range(steps), desc="generate", unit="frame", disable=not progress):
            own = user.new_full((stream.batch_size, 1 + self.config.num_codebooks), FREE_ID)
            output: Any = self.step_with_logits(torch.cat([own, user[:, :, step]], dim=1), stream, sampling)
            stream = output.state
            frames.append(output.complete_codes)
        return MoshiTTTGenerateOutput(codes=torch.stack(frames[steps - max_new_frames :], dim=2), state=stream)

    def _steps_ahead(self, state: MoshiTTTState) -> int:
        """Steps until the first frame that is not complete in `state` becomes so, less one."""
        own = state.history[:, 1 : 1 + self.config.num_codebooks]
        return 0 if bool((own == FREE_ID).any()) else self.config.max_delay_frames

    def _user_frames(self, user_codes: Tensor | None, state: MoshiTTTState, steps: int) -> Tensor:
        shape = (state.batch_size, self.config.num_codebooks, steps)
        if user_codes is None:
            return state.history.new_full(shape, NO_INPUT_ID)
        if user_codes.shape[:2] != shape[:2] or user_codes.shape[2] < steps:
            raise ValueError(f"user_codes must be [B, Q, T] = {list(shape)} or longer; got {list(user_codes.shape)}.")
        return user_codes


def _at_delay(around_BKT: Tensor, columns_K: Tensor) -> Tensor:
    """One column of each stream: `[B, K]`."""
    return around_BKT.gather(2, columns_K[None, :, None].expand(around_BKT.shape[0], -1, 1))[:, :, 0]


def _with_codes(around_BKT: Tensor, codes_BQ: Tensor, columns_Q: Tensor) -> Tensor:
    own = around_BKT[:, : codes_BQ.shape[1]]
    own = own.scatter(2, columns_Q[None, :, None].expand(own.shape[0], -1, 1), codes_BQ[:, :, None])
    return torch.cat([own, around_BKT[:, codes_BQ.shape[1] :]], dim=1)
