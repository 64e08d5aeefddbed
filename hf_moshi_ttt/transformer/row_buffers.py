"""Memory that a live frame of one row writes over, with the views that it needs of it.

On a CPU such a frame costs the calls it makes, and a view is a call: those here are made once a frame, for all layers
of the temporal transformer and all codebooks of the depth transformer. Nothing in them outlives the frame.

Legend: D width, H heads, F head width, Q codebooks, I hidden width of a feed-forward.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class RowHidden(NamedTuple):
    """What the first linear of a gated feed-forward gives, `[2 I]`, to be written, and its halves."""

    whole: Tensor
    gate: Tensor
    value: Tensor


class RowHeads(NamedTuple):
    """Queries, keys and values of a row.

    Args:
        projected: `[3 D]`, to be written.
        turning: queries and keys as they are rotated in place, `[2, 1, H, 1, F]`; as complex numbers
            `[2, 1, H, 1, F / 2]` where their dtype has such.
        q, k, v: `[1, H, 1, F]`.
    """

    projected: Tensor
    turning: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


class RowCodebooks(NamedTuple):
    """Queries, keys and values of a row in one layer of the depth transformer.

    Args:
        projected: `[3 D]` of each codebook, to be written in order.
        queries: `[1, H, 1, F]` of each codebook.
        keys, values: `[1, H, Q, F]`, 0 where not yet written.
        seen: of each codebook, 0 for the keys up to its own and -inf for the others, `[1, 1, 1, Q]`.
        hidden: of its feed-forwards.
    """

    projected: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]
    keys: Tensor
    values: Tensor
    seen: tuple[Tensor, ...]
    hidden: RowHidden


def row_heads(like: Tensor, num_heads: int) -> RowHeads:
    """For all layers of a transformer, one after the other.

    Args:
        like: a row of D values, in any shape.
    """
    projected = like.new_empty(3 * like.numel())
    heads = projected.view(3, 1, num_heads, 1, -1)
    turning = heads[:2]
    if like.dtype in (torch.float32, torch.float64):
        turning = torch.view_as_complex(turning.unflatten(-1, (-1, 2)))
    return RowHeads(projected, turning, *heads.unbind(0))


def row_codebooks(projected: Tensor, num_heads: int, hidden: RowHidden) -> RowCodebooks:
    """For one layer, of zeros `[Q, 3 D]`."""
    count = len(projected)
    q, keys, values = projected.view(count, 3, 1, num_heads, -1).permute(1, 2, 3, 0, 4).unbind(0)
    seen = _seen(count, projected.dtype)
    return RowCodebooks(projected.unbind(0), q.split(1, dim=2), keys, values, seen, hidden)


def row_hidden(like: Tensor, width: int) -> RowHidden:
    """For all feed-forwards whose first linear is `width` (2 I) wide, one after the other, in the dtype of `like`."""
    whole = like.new_empty(width)
    return RowHidden(whole, *whole.chunk(2))


@cache
def _seen(num_codebooks: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """What nobody may write to."""
    with torch.inference_mode(False):
        later = torch.full((num_codebooks, num_codebooks), -math.inf, dtype=dtype, device="cpu").triu(1)
        return later[:, None, None, None].unbind(0)
