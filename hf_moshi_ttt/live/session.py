"""`MoshiTTTSession`: live streams, 80 ms of sound in and 80 ms of sound and a text token out.

B independent streams are stepped together, a row each; rows join, pause, leave and start again without touching the
others. The delays are those of Kyutai's `LMGen`: at step s a stream hears the user's frame s - 1, the model chooses its
frame s, and frame s - 1, then complete, is what is said. So the sound of a stream's very first call is before its
beginning and ignored, and nothing is said in it. Beside these, the codec may have a delay of its own
(`codec.delay_samples`, 0 for Mimi).

Axes: B batch, Q Moshi's codebooks, N samples of a frame.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..codec.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, sec_from_frames
from ..codec.samples import MAX_PEAK
from ..codec.stream_rows import USER_STREAMS, text_codes_without_words
from ..codec.text_pieces import TextPieces
from ..special_ids import FREE_ID, NO_INPUT_ID
from ..streaming.generation_moshi_ttt import Sampling, require_sampling
from ..streaming.state import MoshiTTTState
from ..transformer.code_bounds import require_codes
from .codec_stream import open_codec_stream
from .memory_stats import memory_stats, write_strength
from .memory_switch import silenced_rows
from .saved_rows import SavedRowsMixin
from .undone import Undone

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor


@dataclass(frozen=True)
class SessionFrame:
    """What one step of a session gives, on the CPU.

    Args:
        samples_BN: `[B, 1920]` float32 in [-1, 1], Moshi's voice; zeros where it is not ready.
        text_ids_B: `[B]` int64, the text token of the frame; -1 where it is not ready.
        text: the same as text, "" for a token that says nothing.
        codes_BQ: `[B, Q]` int64, the codes of Moshi's voice; -1 where it is not ready.
        ready_B: `[B]` bool, False in a row's first step, whose frame is complete one step later, and where a row rests.
    """

    samples_BN: Tensor
    text_ids_B: Tensor
    text: list[str]
    codes_BQ: Tensor
    ready_B: Tensor


class MoshiTTTSession(SavedRowsMixin):
    """B independent streams stepped together, one row each.

    A session keeps everything of its streams itself: several may use one model, from one thread at a time.

    Args:
        model: in evaluation mode; its weights must not change while a session runs.
        processor: the model's own, whose codec must be loaded where it shall run.
        batch_size: B.
        sampling: how codes are drawn, as the model's `generation_config` says if None. Its generator is not used.
        seeds: of each row's own draws; 0 to B - 1 if None.
        user_stream: the user's codes in steps without sound: `"duplicate"` of Moshi's, `"silence"` or `"none"` (-1);
            those of mono recordings in the model's training (`config.user_stream`) if None.
        diagnostics: whether the strength of writes is measured, which costs about a tenth of a frame's time.

    Raises:
        ValueError: B below 1, no `sampling`, another number of seeds, seeds that are no whole numbers from 0 to
            2**63 - 1, no such `user_stream`, a model in training mode, or a codec that cannot stream.
    """

    sample_rate_hz = SAMPLE_RATE_HZ
    frame_samples = FRAME_SAMPLES

    def __init__(
        self,
        model: "MoshiTTTForConditionalGeneration",
        processor: "MoshiTTTProcessor",
        *,
        batch_size: int = 1,
        sampling: Sampling | None = None,
        seeds: Sequence[int] | None = None,
        user_stream: Literal["duplicate", "silence", "none"] | None = None,
        diagnostics: bool = True,
    ) -> None:
        if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}, but a session has a whole number of rows, at least 1.")
        seeds = [_checked_seed(seed) for seed in (range(batch_size) if seeds is None else seeds)]
        if len(seeds) != batch_size:
            raise ValueError(f"{len(seeds)} seeds for {batch_size} rows: give one a row.")
        user_stream = model.config.user_stream if user_stream is None else user_stream
        if user_stream not in USER_STREAMS:
            raise ValueError(f"user_stream={user_stream!r}, but it must be one of {', '.join(USER_STREAMS)}.")
        if any(module.training for module in (model, processor.codec)):
            raise ValueError("The model is in training mode: call model.eval() first.")
        self.model, self.processor, self.seeds = model, processor, seeds
        self.sampling = Sampling.from_generation_config(model.generation_config) if sampling is None else sampling
        require_sampling(self.sampling)
        self.user_stream, self.diagnostics = user_stream, diagnostics
        self.num_rows, self.num_codebooks = batch_size, model.config.num_codebooks
        self.codec = open_codec_stream(processor.codec, batch_size, self.num_codebooks)
        self.state: MoshiTTTState = model.init_state(batch_size)
        self.generators = [torch.Generator(model.device).manual_seed(seed) for seed in seeds]
        self.memory_frames = [0] * batch_size
        self.memory_on_B = torch.ones(batch_size, dtype=torch.bool, device=model.device)
        self._undone = Undone()
        self._idle_generator = torch.Generator(model.device)
        self._tokenizer = processor.tokenizer if model.config.text_tokenizer else None
        text_B1 = text_codes_without_words(model.config, batch_size, 1, model.device)
        self._text_without_words_B = None if text_B1 is None else text_B1[:, 0]
        self.texts = [self._new_text() for _ in seeds]
        layers = len(model.config.ttt_layer_indices)
        self.write_strength_LB = torch.full((layers, batch_size), torch.nan, device=model.device)

    def _new_text(self) -> TextPieces:
        config = self.model.config
        return TextPieces(self._tokenizer, {config.pad_token_id, config.end_pad_token_id})

    @torch.no_grad()
    def step(
        self,
        samples_BN: Tensor | np.ndarray | None,
        active_B: Tensor | Sequence[bool] | None = None,
        forced_text_B: Tensor | None = None,
        forced_codes_BQ: Tensor | None = None,
    ) -> SessionFrame:
        """The next 80 ms of every active row.

        Args:
            samples_BN: `[B, 1920]` float32 in [-1, 1], what the users say; anything finite in rows that are not active.
                None where there are no users: their codes are those of `user_stream`.
            active_B: `[B]`, False for rows that rest: nothing of them changes; all advance if None.
            forced_text_B: `[B]` int64, the text of the frame that is chosen now, -2 where the model chooses. If None
                it chooses, or, without a tokenizer and so without text, is given the text row of its training.
            forced_codes_BQ: `[B, Q]` int64, its codes, likewise; it chooses if None.

        Raises:
            ValueError: wrong shapes or types, samples that are not finite or far outside [-1, 1], or ids out of range.

        After an error of any kind nothing has changed: the same frame can be stepped again, also for some rows alone.
        """
        active = self._checked_rows(active_B)
        samples = None if samples_BN is None else self._checked_samples(samples_BN, active)
        frame = self._frame_to_choose(forced_text_B, forced_codes_BQ)
        with self._undone.on_failure(self.codec.tensors(), self.generators, self.texts):
            return self._stepped(samples, active, frame)

    def _stepped(self, samples: Tensor | None, active: Tensor, frame: Tensor) -> SessionFrame:
        begun = active & (self.state.frames > 0)
        state = self._without_users(begun) if samples is None else self._heard(samples, begun)
        with silenced_rows(self.model, ~self.memory_on_B):
            output: Any = self.model.step_with_logits(
                frame, state, self._sampling_of(active), active_rows=None if bool(active.all()) else active,
                diagnostics=self.diagnostics,
            )  # fmt: skip
        said = self._frame_of(output.complete_codes, active & (output.frames.amin(1) >= 0))
        self.state = output.state
        if output.diagnostics:
            self.write_strength_LB = torch.where(active, write_strength(output.diagnostics), self.write_strength_LB)
        for row in active.nonzero()[:, 0].tolist():
            self.memory_frames[row] += 1
        return said

    def _heard(self, samples_BN: Tensor, begun_B: Tensor) -> MoshiTTTState:
        """The state after the users' last frame, in rows that have begun."""
        device = self.processor.codec.device
        codes_BQT = self.codec.encode(samples_BN.to(device), begun_B.to(device))
        return self.state.with_user_codes(codes_BQT[:, :, 0].to(self.model.device), begun_B)

    def _without_users(self, begun_B: Tensor) -> MoshiTTTState:
        """The state after the last frame of users who are not there, in rows that have begun."""
        if self.user_stream == "duplicate":
            return self.state.with_own_codes_as_user(begun_B)
        if self.user_stream == "none":
            return self.state
        last_BQ = self.state.history[:, -self.num_codebooks :, -1]  # of a prompt, where it is there
        silence_Q = torch.tensor(self._silence_codes, device=self.model.device)
        return self.state.with_user_codes(silence_Q.where(last_BQ == NO_INPUT_ID, last_BQ), begun_B)

    @cached_property
    def _silence_codes(self) -> list[int]:
        return self.processor.silence_codes()

    @torch.no_grad()
    def prefill(self, codes_BKT: Tensor, user_samples_BS: Tensor | None = None) -> None:
        """Reads what was said before the first step, many frames at once, as if it had been said and heard live.

        Each row goes on from frame T: the next step hears the user's frame T - 1 and returns Moshi's, the last one of
        these.

        Args:
            codes_BKT: `[B, K, T]` int64 of both voices and the text, without absent codes in Moshi's rows.
            user_samples_BS: `[B, T * 1920]` float32, the sound of the users' codes; None where there are no users.

        Raises:
            ValueError: rows that have begun, or codes or samples of another shape or out of range.
        """
        if bool((self.state.frames > 0).any()):
            raise ValueError("Some rows have begun: prefill goes before the first step. Reset them first.")
        require_codes(codes_BKT, self.model.config)
        frames, everyone = codes_BKT.shape[-1], self._checked_rows(None)
        own_BQT = codes_BKT[:, 1 : 1 + self.num_codebooks]
        if user_samples_BS is not None:
            user_samples_BS = self._checked_samples(user_samples_BS, everyone, frames)
        if bool((own_BQT < 0).any()):
            raise ValueError("Some codes of Moshi's voice are absent: what was said must be known.")
        with silenced_rows(self.model, ~self.memory_on_B):
            self.state = self.model(codes_BKT.to(self.model.device), state=self.state).state
        self.memory_frames = [heard + frames for heard in self.memory_frames]
        device, before = self.processor.codec.device, frames - 1
        for text, tokens in zip(self.texts, codes_BKT[:, 0, :before].tolist(), strict=True):
            for token in tokens:
                text.piece(token)  # the last of them may leave a character unfinished
        if before > 0:
            self.codec.decode(own_BQT[:, :, :before].to(device), everyone.to(device))
        if before > 0 and user_samples_BS is not None:
            self.codec.encode(user_samples_BS[:, : before * FRAME_SAMPLES].to(device), everyone.to(device))

    def _checked_samples(self, samples_BN: Tensor | np.ndarray, active_B: Tensor, frames: int = 1) -> Tensor:
        samples, expected = torch.as_tensor(samples_BN), [self.num_rows, frames * FRAME_SAMPLES]
        if list(samples.shape) != expected or samples.dtype != torch.float32:
            raise ValueError(f"samples must be float32 {expected}; got {samples.dtype} {list(samples.shape)}.")
        peaks = samples.abs().amax(1).tolist()
        if rows := [row for row, peak in enumerate(peaks) if not math.isfinite(peak)]:
            raise ValueError(f"samples of rows {rows} are NaN or infinite: clean the audio.")
        loud = [row for row, peak in enumerate(peaks) if peak > MAX_PEAK]
        if rows := [row for row in loud if active_B[row]]:
            raise ValueError(
                f"samples of rows {rows} peak at {max(peaks[row] for row in rows):g}, but samples lie in [-1, 1]: they "
                "look like integers stored as floats; divide them by their full scale."
            )
        return samples

    def _checked_rows(self, rows_B: Tensor | Sequence[bool] | None) -> Tensor:
        if rows_B is None:
            return torch.ones(self.num_rows, dtype=torch.bool, device=self.model.device)
        return self.state.row_mask(torch.as_tensor(rows_B))

    def checked_row(self, row: int) -> int:
        """The number of a row.

        Raises:
            ValueError: there is no such row.
        """
        if not hasattr(row, "__index__") or not 0 <= row < self.num_rows:
            raise ValueError(f"row {row!r}, but this session has rows 0 to {self.num_rows - 1}.")
        return operator.index(row)

    def _frame_to_choose(self, text_B: Tensor | None, codes_BQ: Tensor | None) -> Tensor:
        """Codes `[B, K]` of Moshi's next frame, -2 where they are free; the user's are heard one step later."""
        frame = torch.full((self.num_rows, self.model.config.num_streams), FREE_ID, device=self.model.device)
        frame[:, 1 + self.num_codebooks :] = NO_INPUT_ID
        text_B = self._text_without_words_B if text_B is None else text_B
        own_BQ = frame[:, 1 : 1 + self.num_codebooks]
        for name, given, part in (("forced_text_B", text_B, frame[:, 0]), ("forced_codes_BQ", codes_BQ, own_BQ)):
            if given is None:
                continue
            given = torch.as_tensor(given)
            if given.shape != part.shape or given.dtype != torch.int64:
                raise ValueError(f"{name} must be int64 {list(part.shape)}; got {given.dtype} {list(given.shape)}.")
            part.copy_(given)
        self.model.check_frame(frame, self.state)
        return frame

    def _sampling_of(self, active_B: Tensor) -> Sampling:
        """Rows that rest draw from a generator that nobody else uses."""
        pairs = zip(self.generators, active_B.tolist(), strict=True)
        return replace(self.sampling, generator=[own if active else self._idle_generator for own, active in pairs])

    def _frame_of(self, complete_BK: Tensor, ready_B: Tensor) -> SessionFrame:
        codes_BQ = complete_BK[:, 1 : 1 + self.num_codebooks]
        codec_device = self.processor.codec.device
        samples_BN = self.codec.decode(
            codes_BQ.where(ready_B[:, None], 0)[:, :, None].to(codec_device), ready_B.to(codec_device)
        )
        text_ids_B = complete_BK[:, 0].where(ready_B, NO_INPUT_ID).cpu()
        return SessionFrame(
            samples_BN.float().cpu(),
            text_ids_B,
            [text.piece(token) for text, token in zip(self.texts, text_ids_B.tolist(), strict=True)],
            codes_BQ.where(ready_B[:, None], NO_INPUT_ID).cpu(),
            ready_B.cpu(),
        )

    @torch.no_grad()
    def reset(self, row: int, *, keep_memory: bool = False, seed: int | None = None) -> None:
        """Makes a row a fresh stream, whose draws start again; the others do not change.

        Args:
            keep_memory: whether it keeps what its memories have learned, with nothing else of its past.
            seed: of its draws from here on; the row's present one if None.

        Raises:
            ValueError: no such row or no such seed. Nothing has changed then.
        """
        row = self.checked_row(row)
        seed = self.seeds[row] if seed is None else _checked_seed(seed)
        for name, tensor in self.state.named_tensors().items():
            if not (keep_memory and name.startswith("memory.")):
                tensor[row] = self.state.fresh_value(name, tensor)[row]
        self.codec.reset(row)
        self.seeds[row] = seed
        self.generators[row].manual_seed(seed)
        self.memory_frames[row] = self.memory_frames[row] if keep_memory else 0
        self.write_strength_LB[:, row] = torch.nan
        self.memory_on_B[row] = True
        self.texts[row] = self._new_text()

    def set_memory_on(self, row: int, on: bool) -> None:
        """Whether a row's memory answers; it is what `memory="off"` means in the evaluation, for one stream.

        While it is off, the gate of each TTT layer is 0 for the row: the rest of the model goes on as if there were no
        memory, while the memory goes on learning from what it hears.
        """
        self.memory_on_B[self.checked_row(row)] = on

    def memory_stats(self, row: int) -> list[dict[str, Any]]:
        """What the memory of each TTT layer is, in order of the layers.

        Keys: `layer`; `norm` of what was learned; `num_bytes`; `write_strength`, the mean over heads of the last
        frame's step, None before the first one, for learners without one and without `diagnostics`; `age_sec`, how much
        the memory has heard.
        """
        row, age_sec = self.checked_row(row), sec_from_frames(self.memory_frames[row])
        layers, written_L = self.model.config.ttt_layer_indices, self.write_strength_LB[:, row].tolist()
        return [
            {"layer": layer, **memory_stats(memory, row), "write_strength": _number(written), "age_sec": age_sec}
            for layer, memory, written in zip(layers, self.state.memory, written_L, strict=True)
        ]


def _checked_seed(seed: int) -> int:
    """Raises ValueError for a seed that a saved stream could not hold."""
    try:
        whole = operator.index(seed)
    except TypeError:
        whole = -1
    if not 0 <= whole < 1 << 63:
        raise ValueError(f"seed={seed!r}, but it must be a whole number from 0 to 2**63 - 1.")
    return whole


def _number(value: float) -> float | None:
    """None for NaN, which JSON has not."""
    return None if math.isnan(value) else value
