"""Losses of every codebook at every frame of long recordings, from the exact streaming state.

The same losses can be read in two ways: frame by frame with `step_with_logits`, or in blocks with carried state, which
is many times faster. Memory does not grow with length. In the text row, -2 stands for the model's own greedy choice.

A frame's text depends on the text of all frames before it. Instead of running frame by frame, a block is run with a
guess of its text. The greedy choices that it gives are correct up to and including the first one that differs from the
guess, and the later ones are the next guess. The block is run again until its choices equal the guess.

Legend: B recordings, K streams, Q Moshi's codebooks, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..special_ids import FREE_ID
from ..transformer.losses import code_losses

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..streaming.state import MoshiTTTState

_FIRST_BLOCK_FRAMES, _FEWEST_BLOCK_FRAMES = 64, 8
_FEW_PASSES, _MANY_PASSES = 4, 8

Progress = Callable[[int], object]


@dataclass
class Block:
    """A block that was run: its codes `[B, K, T]` with chosen text, the model's `output`, and the passes it took."""

    codes: Tensor
    output: Any
    passes: int


@torch.no_grad()
def run_block(
    model: "MoshiTTTForConditionalGeneration", codes_BKT: Tensor, state: "MoshiTTTState", expects_guess: bool = True
) -> Block:
    """Runs a block with the model's greedy choice in place of every text code that is -2.

    Args:
        state: the stream before the block; `output.state` is the one after it.
        expects_guess: whether the first guess, PAD, is likely to be right. If so, the depth transformer runs along with
            it; if not, only with the pass that confirms a guess. The result is the same.
    """
    free_BT = codes_BKT[:, 0] == FREE_ID
    text_BT = codes_BKT[:, 0].masked_fill(free_BT, model.config.pad_token_id)
    is_whole, passes = expects_guess or not bool(free_BT.any()), 0
    while True:
        codes_BKT = torch.cat([text_BT[:, None], codes_BKT[:, 1:]], dim=1)
        output = model(codes_BKT, state=state, text_only=not is_whole)
        chosen_BT = torch.where(free_BT, output.text_logits.argmax(-1), text_BT)
        passes += 1
        is_right = torch.equal(chosen_BT, text_BT)
        if is_right and is_whole:
            return Block(codes_BKT, output, passes)
        text_BT, is_whole = chosen_BT, is_right


class BlockReader:
    """Reads recordings in blocks.

    Args:
        block_frames: the longest block. Where the model chooses the text, blocks start shorter, are halved where
            guesses need many passes and doubled where they need few.
        kept_from: a frame; the state before the first block that starts there or later is kept. None keeps none.

    Attributes:
        passes: runs of the model so far; more than the number of blocks where text had to be guessed again.
        kept: that block's first frame, and the state.
    """

    def __init__(
        self, model: "MoshiTTTForConditionalGeneration", block_frames: int, kept_from: int | None = None
    ) -> None:
        self.model = model
        self.block_frames = block_frames
        self.kept_from = kept_from
        self.passes = 0
        self.kept: tuple[int, MoshiTTTState] | None = None

    @torch.no_grad()
    def losses(
        self, codes_BKT: Tensor, state: "MoshiTTTState", progress: Progress, lengths: Sequence[int] | None = None
    ) -> "tuple[Tensor, MoshiTTTState]":
        """Losses `[B, Q, T]` in float32, NaN where there is none, and the state after the recordings.

        Args:
            lengths: frames of each recording, the longest first, or None if all are equal. None is read beyond its end.
        """
        own_BQT = codes_BKT[:, 1 : 1 + self.model.config.num_codebooks]
        losses = torch.full(own_BQT.shape, torch.nan, device=codes_BKT.device)
        start, length, last_passes = 0, codes_BKT.shape[2], 1
        is_free = bool((codes_BKT[:, 0] == FREE_ID).any())
        size = min(_FIRST_BLOCK_FRAMES, self.block_frames) if is_free else self.block_frames
        while start < length:
            rows = sum(one > start for one in lengths) if lengths else len(codes_BKT)
            if rows < state.batch_size:
                state = _first_rows(state, rows)
            if self.kept is None and self.kept_from is not None and start >= self.kept_from:
                self.kept = (start, state.clone())
            block = run_block(self.model, codes_BKT[:rows, :, start : start + size], state, last_passes == 1)
            state, last_passes = block.output.state, block.passes
            self.passes += block.passes
            _note(losses[:rows], own_BQT[:rows], block.output, start, self.model.config.max_delay_frames)
            progress(min(size, length - start))
            start += size
            size = self._next_size(size, last_passes)
        return losses, state

    def _next_size(self, size: int, passes: int) -> int:
        if passes > _MANY_PASSES:
            return max(_FEWEST_BLOCK_FRAMES, size // 2)
        return min(self.block_frames, 2 * size) if passes <= _FEW_PASSES else size


def _first_rows(state: "MoshiTTTState", rows: int) -> "MoshiTTTState":
    return state.map(lambda _, tensor: tensor[:rows].clone())


def _note(losses_BQT: Tensor, own_BQT: Tensor, output: Any, start: int, depth: int) -> None:
    """Writes a block's losses, and those of the frames before it that needed this block."""
    logits, late_logits = output.audio_logits, output.late_audio_logits
    here = slice(start, start + logits.shape[2])
    losses_BQT[:, :, here] = _losses(logits, own_BQT[:, :, here])
    before = slice(max(0, start - depth), start)
    reached = own_BQT[:, :, before]
    late = _losses(late_logits[:, :, depth - reached.shape[2] :], reached)
    losses_BQT[:, :, before] = torch.where(late.isnan(), losses_BQT[:, :, before], late)


def _losses(logits: Tensor, codes: Tensor) -> Tensor:
    """NaN where a code is absent or has no prediction."""
    return code_losses(logits, codes).masked_fill(codes < 0, torch.nan)


@torch.no_grad()
def losses_by_frame(
    model: "MoshiTTTForConditionalGeneration", codes_BKT: Tensor, state: "MoshiTTTState", progress: Progress
) -> "tuple[Tensor, MoshiTTTState]":
    """Losses `[B, Q, T]` in float32, NaN where there is none, and the state after the frames; one frame a step.

    Those of frames before the first one, which its step gives too, are left out.
    """
    count, length = model.config.num_codebooks, codes_BKT.shape[2]
    delays = torch.tensor(model.config.delays[1 : 1 + count], device=codes_BKT.device)
    own_BQT = codes_BKT[:, 1 : 1 + count]
    losses = torch.full(own_BQT.shape, torch.nan, device=codes_BKT.device)
    for frame in range(length):
        step: Any = model.step_with_logits(codes_BKT[:, :, frame], state)
        state = step.state
        columns = (frame - delays)[None, :, None].expand(len(own_BQT), -1, 1)
        given = own_BQT.gather(2, columns.clamp_min(0))[:, :, 0]
        found = _losses(step.audio_logits, given)
        kept = losses.gather(2, columns.clamp_min(0))
        losses.scatter_(2, columns.clamp_min(0), torch.where(columns >= 0, found[..., None], kept))
        progress(1)
    return losses, state
