"""Where the frames of a call stand: their rotary phases, the keys that each query sees, and the slots of a ring.

Every layer of a transformer needs the same, so it is computed once a call. Positions are exact at any length of a
stream: what is computed from them is reduced first.

Legend: B batch, H heads, T frames, W window, S keys, F head width.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .rope import Phases
    from .row_buffers import RowHeads

_MIN_BLOCK_FRAMES = 128


class Band(NamedTuple):
    """A block of queries and the keys they reach, as slices of T and S, with the mask `[..., block, keys]`.

    The mask is True where a query sees a key, or in floating point 0 there and -inf elsewhere.
    """

    queries: slice
    keys: slice
    mask: Tensor


class FramePositions(NamedTuple):
    """What attention needs to know of the frames of a call.

    Args:
        phases: of `rope_phases`.
        bands: blocks of queries with what they see; none where every query sees every key up to its own.
        read_slots: `[B, H, W - 1, F]`, the ring's slots in order of time; of several frames of a stream.
        write_slots: `[B, H, min(T, W), F]`, the slots that the last frames take; of a stream.
        row: what the layers write over, where the frames are one row that is without gradients on a CPU.
    """

    phases: "Phases"
    bands: tuple[Band, ...] = ()
    read_slots: Tensor | None = None
    write_slots: Tensor | None = None
    row: "RowHeads | None" = None


def frame_positions(
    positions_BT: Tensor,
    window: int,
    phases: "Phases",
    continues: bool,
    heads: tuple[int, int] = (1, 1),
    dtype: torch.dtype = torch.float32,
) -> FramePositions:
    """What attention needs to know of frames at these positions.

    Args:
        phases: their rotary phases.
        continues: whether they are the next frames of a stream, whose ring holds those before.
        heads: H and F of the ring.
        dtype: of the mask of a single frame.
    """
    length, device = positions_BT.shape[1], positions_BT.device
    if not continues:
        return FramePositions(phases, () if length <= window else tuple(_bands(length, 0, window, device)))
    write = _slots(positions_BT[:, -window:], window, heads)
    if length == 1:
        in_use = torch.arange(window, device=device) <= positions_BT
        mask = in_use.log().to(dtype)[:, None, None]  # 0 and -inf
        return FramePositions(phases, (Band(slice(0, 1), slice(0, window), mask),), None, write)
    before = positions_BT[:, :1] + torch.arange(-(window - 1), 0, device=device)  # [B, W - 1]
    exists_BS = torch.cat([before >= 0, torch.ones_like(positions_BT, dtype=torch.bool)], dim=1)
    bands = _bands(length, window - 1, window, device, exists_BS)
    return FramePositions(phases, tuple(bands), _slots(before, window, heads), write)


def _slots(positions_BT: Tensor, window: int, heads: tuple[int, int]) -> Tensor:
    return (positions_BT % window)[:, None, :, None].expand(-1, heads[0], -1, heads[1])


def _bands(
    length: int, past: int, window: int, device: torch.device, exists_BS: Tensor | None = None
) -> Iterator[Band]:
    """Queries at the end of `past + length` keys, each of which sees the `window` keys that end at its own."""
    block = max(window, _MIN_BLOCK_FRAMES)
    for first in range(0, length, block):
        last = min(first + block, length)
        start = max(0, past + first - window + 1)
        queries = torch.arange(past + first, past + last, device=device)[:, None]
        keys = torch.arange(start, past + last, device=device)
        mask = (keys <= queries) & (keys > queries - window)
        if exists_BS is not None:
            mask = mask & exists_BS[:, None, None, start : past + last]
        yield Band(slice(first, last), slice(start, past + last), mask)
