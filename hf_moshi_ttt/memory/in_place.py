"""In-Place TTT on plain tensors: the definition frame by frame, and the fast form of the same.

The last projection W of a gated feed-forward is the fast weight (Feng et al. 2026, "In-Place Test-Time Training",
arXiv 2604.06169, algorithm 1). Time is cut into chunks of C frames from the start of a stream. With z_t, the hidden
activation that W reads, x_t, the embedding of the model's input, taps w of a convolution per channel that reaches L
frames ahead, and a projection P:

    v_t = P sum over d = L - width + 1 .. L of w_d * x_{t+d}        over frames t + d of t's own chunk alone
    S after a chunk = S before it + rate * sum over its frames of v_t z_t^T
    y_t = (W + S before t's chunk) z_t

So a step is one of gradient descent on -<S z_t, v_t>, taken when the chunk's last frame is known; frames beyond the
chunk count as zero, and no output depends on a later frame. Here only y_t - W z_t is computed, which is zero in a
fresh memory.

Legend: B batch, T frames, S frames with those of the unfinished chunk before them, C frames per chunk, D model width,
I width of the hidden activation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..transformer.stream_state import StreamState

_MIN_SEGMENT_FRAMES = 256
_NO_CHUNK = -2  # before the frames of a call and after them; -1 is that of frames before the unfinished chunk


@dataclass
class InPlaceState(StreamState):
    """The memory of one layer, one row per sample; all zeros is a fresh memory.

    Args:
        delta_weights: S `[B, D, I]`, what was learned on top of W, in float32 at least.
        hidden, embedded: z `[B, C - 1, I]` and x `[B, C - 1, D]` of the last frames, the newest last; those before the
            unfinished chunk are not used.
        position: `[B]` int64, frames in the unfinished chunk, 0..C-1.
    """

    delta_weights: Tensor
    hidden: Tensor
    embedded: Tensor
    position: Tensor


class InPlaceRule(NamedTuple):
    """What the frames are learned with.

    Args:
        taps_DW: w, the oldest frame first.
        projection_DD: P, output channels first.
        lookahead_frames: L.
        chunk_frames: C.
        rate: factor on each chunk's sum.
    """

    taps_DW: Tensor
    projection_DD: Tensor
    lookahead_frames: int
    chunk_frames: int
    rate: float


def naive_in_place(rule: InPlaceRule, hidden_BTI: Tensor, embedded_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """The definition, one frame at a time from a fresh memory: answers `[B, T, D]`, and S `[B, D, I]` after them."""
    width, size = rule.taps_DW.shape[1], rule.chunk_frames
    delta = hidden_BTI.new_zeros(len(hidden_BTI), embedded_BTD.shape[2], hidden_BTI.shape[2])
    answers = []
    for t in range(hidden_BTI.shape[1]):
        answers.append(torch.einsum("bdi,bi->bd", delta, hidden_BTI[:, t]))
        if (t + 1) % size:
            continue
        first, step = t + 1 - size, torch.zeros_like(delta)
        for s in range(first, t + 1):
            filtered = torch.zeros_like(embedded_BTD[:, s])
            for tap in range(width):
                frame = s + tap - (width - 1 - rule.lookahead_frames)
                if first <= frame <= t:
                    filtered = filtered + rule.taps_DW[:, tap] * embedded_BTD[:, frame]
            value = filtered @ rule.projection_DD.T
            step = step + torch.einsum("bd,bi->bdi", value, hidden_BTI[:, s])
        delta = delta + rule.rate * step
    return torch.stack(answers, dim=1), delta


def in_place(
    rule: InPlaceRule, hidden_BTI: Tensor, embedded_BTD: Tensor, state: InPlaceState
) -> tuple[Tensor, InPlaceState]:
    """Answers `[B, T, D]` of any number of frames, each row at its own position, and the state after the last.

    Segments are as long as products of frames with frames cost less than those of frames with S.
    """
    inner, outer = hidden_BTI.shape[2], embedded_BTD.shape[2]
    frames = max(_MIN_SEGMENT_FRAMES, inner * outer // (inner + outer))
    answers = []
    for hidden, embedded in zip(hidden_BTI.split(frames, 1), embedded_BTD.split(frames, 1), strict=True):
        answer, state = _segment(rule, hidden, embedded, state)
        answers.append(answer)
    return answers[0] if len(answers) == 1 else torch.cat(answers, dim=1), state


def _segment(
    rule: InPlaceRule, hidden_BTI: Tensor, embedded_BTD: Tensor, state: InPlaceState
) -> tuple[Tensor, InPlaceState]:
    """As `in_place`, in one go: S at the start, and within the segment as linear attention over finished chunks."""
    length, size = hidden_BTI.shape[1], rule.chunk_frames
    hidden_BSI = torch.cat([state.hidden, hidden_BTI], dim=1)
    embedded_BSD = torch.cat([state.embedded, embedded_BTD], dim=1)
    end_B = state.position + length
    offsets = torch.arange(1 - size, length, device=hidden_BTI.device)
    chunks_BS = (state.position[:, None] + offsets).div(size, rounding_mode="floor")
    is_finished_BS = (chunks_BS >= 0) & (chunks_BS < end_B.div(size, rounding_mode="floor")[:, None])
    steps_BSD = rule.rate * _targets(rule, embedded_BSD, chunks_BS) * is_finished_BS[..., None]
    answers_BTD = hidden_BTI @ state.delta_weights.mT
    if length > 1:
        is_earlier_BTS = chunks_BS[:, None] < chunks_BS[:, size - 1 :, None]
        scores_BTS = (hidden_BTI @ hidden_BSI.mT).masked_fill(~is_earlier_BTS, 0)
        answers_BTD = torch.baddbmm(answers_BTD, scores_BTS, steps_BSD)
    return answers_BTD, InPlaceState(
        delta_weights=torch.baddbmm(state.delta_weights, steps_BSD.mT, hidden_BSI),
        hidden=hidden_BSI[:, length:].clone(),
        embedded=embedded_BSD[:, length:].clone(),
        position=end_B % size,
    )


def _targets(rule: InPlaceRule, embedded_BSD: Tensor, chunks_BS: Tensor) -> Tensor:
    """v `[B, S, D]`, right for the frames of finished chunks."""
    taps, length = rule.taps_DW.unbind(1), embedded_BSD.shape[1]
    around = (len(taps) - 1 - rule.lookahead_frames, rule.lookahead_frames)
    embedded, chunks = F.pad(embedded_BSD, (0, 0, *around)), F.pad(chunks_BS, around, value=_NO_CHUNK)
    filtered = torch.zeros_like(embedded_BSD)
    for index, tap in enumerate(taps):
        of_this_chunk = chunks[:, index : index + length] == chunks_BS
        filtered = filtered + embedded[:, index : index + length] * of_this_chunk[..., None] * tap
    return F.linear(filtered, rule.projection_DD)
