"""Sliding-window self-attention, whole, in chunks or frame by frame, and the parts both transformers share.

A query at position p sees the keys at p - W + 1 .. p. A whole sequence within the window is one causal SDPA call
without a mask; a longer one runs in blocks of queries that each see a band of keys, so no T x T mask is ever built
(`frame_positions.py`). A stream keeps its last W keys and values in a ring, slot = position mod W, with each row at
its own position.

Legend: B batch, H heads, T frames, W window, F head width, D model width.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapted_linear import linear_of
from .frame_positions import Band, FramePositions, frame_positions
from .gated_silu import gated_silu
from .rms_norm import rms_norm, row_norm
from .rope import rope_phases, rotate_, rotated_heads, wide_dtype
from .row_buffers import RowHidden, row_heads
from .row_product import has_hooks, is_compiled, is_one_row, is_plain, may_write, row_plus_product, row_product
from .stream_state import StreamState


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 at least."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]` in the input's dtype."""
        if x.dtype == self.weight.dtype:
            norm = row_norm if is_one_row(x) else rms_norm
            return norm(x, self.weight, self.eps)
        dtype = wide_dtype(x.dtype)
        return rms_norm(x.to(dtype), self.weight.to(dtype), self.eps).to(x.dtype)


class GatedMLP(nn.Module):
    """SiLU-gated feed-forward; `fc1` holds the gate's rows, then the value's."""

    def __init__(self, hidden_size: int, ffn_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, ffn_dim, bias=False)
        self.fc2 = nn.Linear(ffn_dim // 2, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        return linear_of(self.fc2, self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """What `fc2` reads."""
        return gated_silu(linear_of(self.fc1, x))

    def added_to(self, row_D: Tensor, x_D: Tensor, hidden: RowHidden) -> Tensor:
        """`row + forward(x)`, of one row."""
        row_product(self.fc1, x_D, out=hidden.whole)
        return row_plus_product(row_D, self.fc2, F.silu(hidden.gate).mul_(hidden.value))


def plus_mlp(residual: Tensor, mlp: Any, norm: Any) -> Tensor:
    """`residual + mlp(norm(residual))`, `[..., D]`; off CPUs without gradients it is written into the residual, unless
    the feed-forward is more than a `GatedMLP` or a hook of either may keep what it is given."""
    x = norm(residual)
    can_write = may_write(residual) and residual.is_contiguous() and residual.dtype == x.dtype
    is_usual = type(mlp).forward is GatedMLP.forward and not is_compiled(mlp) and not has_hooks(mlp)
    if not can_write or not is_usual or has_hooks(norm) or not is_plain(mlp.fc2):
        return residual + mlp(x)
    rows, hidden = (y.view(-1, y.shape[-1]) for y in (residual, mlp.hidden(x)))
    rows.addmm_(hidden, mlp.fc2.weight.mT)
    return residual


@dataclass
class KVCache(StreamState):
    """The last W keys and values of one layer, `[B, H, W, F]`; position p is in slot p mod W."""

    keys: Tensor
    values: Tensor


class SlidingWindowAttention(nn.Module):
    """Causal self-attention over the last `window` frames with rotary positions."""

    def __init__(self, hidden_size: int, num_heads: int, window: int, rope_theta: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = hidden_size // num_heads
        self.window = window
        self.rope_theta = rope_theta
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def init_cache(self, batch_size: int, dtype: torch.dtype, device: torch.device | str) -> KVCache:
        """An empty ring of `batch_size` rows.

        Args:
            dtype: that the layer computes in; its weights may be stored in another, such as int8.
        """
        shape = (batch_size, self.num_heads, self.window, self.head_dim)
        zeros = torch.zeros(shape, dtype=dtype, device=device)
        return KVCache(zeros, zeros.clone())

    def positions(self, x_BTD: Tensor, frames_B: Tensor | None = None) -> FramePositions:
        """Of the frames of x, at the start of a sequence or after `frames_B` `[B]` frames of a stream."""
        length, device = x_BTD.shape[1], x_BTD.device
        if frames_B is None:
            positions_BT = torch.arange(length, device=device)[None]
        else:
            positions_BT = frames_B[:, None]
            if length > 1:
                positions_BT = positions_BT + torch.arange(length, device=device)
        phases = rope_phases(positions_BT, self.head_dim, self.rope_theta)
        heads, continues = (self.num_heads, self.head_dim), frames_B is not None
        found = frame_positions(positions_BT, self.window, phases, continues, heads, x_BTD.dtype)
        return found._replace(row=row_heads(x_BTD, self.num_heads)) if is_one_row(x_BTD) else found

    def forward(
        self,
        x_BTD: Tensor,
        cache: KVCache | None = None,
        frames_B: Tensor | None = None,
        positions: FramePositions | None = None,
    ) -> tuple[Tensor, KVCache | None]:
        """Attends over `x` `[B, T, D]`, or a row `[D]`, and, where there is one, the stream before it.

        Args:
            cache: the ring of a stream to continue, or None for a sequence that starts here. One frame without
                gradients is written into the ring in place; otherwise a new ring is returned.
            frames_B: `[B]` int64, frames of each row so far; given with `cache`.
            positions: what `self.positions` gives for these frames, where it is known, as of a row it must be.

        Returns:
            What is added to x, in its shape, and the ring after the last frame, None where none was given.
        """
        if positions is None:
            positions = self.positions(x_BTD, None if cache is None else frames_B)
        q, k, v = self._heads(x_BTD, positions)
        if cache is None or frames_B is None:
            out = _attend(q, k, v, positions.bands)
        elif q.shape[2] == 1:
            out, cache = _attend_frame(q, k, v, cache, positions)
        else:
            out, cache = _attend_chunk(q, k, v, cache, positions)
        if x_BTD.dim() == 1:
            return row_product(self.o_proj, out.view(-1)), cache
        return linear_of(self.o_proj, out.transpose(1, 2).flatten(-2)), cache

    def _heads(self, x_BTD: Tensor, positions: FramePositions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, which are rotated, and values, `[B, H, T, F]`."""
        if x_BTD.dim() == 1:
            row = positions.row
            assert row is not None
            row_product(self.qkv_proj, x_BTD, out=row.projected)
            rotate_(row.turning, positions.phases)
            return row.q, row.k, row.v
        return rotated_heads(linear_of(self.qkv_proj, x_BTD), self.num_heads, positions.phases)


def _attend(q: Tensor, k: Tensor, v: Tensor, bands: tuple[Band, ...]) -> Tensor:
    """Each query sees what its band says, or all keys up to its own where there are no bands.

    Args:
        q: `[B, H, T, F]`; k, v: `[B, H, S, F]`.
    """
    if not bands:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    outputs = [
        F.scaled_dot_product_attention(q[:, :, queries], k[:, :, keys], v[:, :, keys], attn_mask=mask)
        for queries, keys, mask in bands
    ]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _attend_frame(q: Tensor, k: Tensor, v: Tensor, cache: KVCache, positions: FramePositions) -> tuple[Tensor, KVCache]:
    """One frame: its key takes the slot of the one that left the window, and the query sees every slot in use."""
    assert positions.write_slots is not None
    slot = positions.write_slots
    if torch.is_grad_enabled() or _is_frozen(cache.keys):
        cache = KVCache(_put(cache.keys, slot, k), _put(cache.values, slot, v))
    else:
        cache.keys.scatter_(2, slot, k.to(cache.keys.dtype))
        cache.values.scatter_(2, slot, v.to(cache.values.dtype))
    mask = positions.bands[0].mask.to(q.dtype)
    keys, values = cache.keys.to(q.dtype), cache.values.to(q.dtype)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask), cache


def shared_positions(layers: Iterable[Any], x_BTD: Tensor, frames_B: Tensor | None) -> FramePositions:
    """What `positions` of their attention gives for all decoder layers; of no row where one is compiled by itself."""
    attentions = [layer.self_attn for layer in layers]
    positions: FramePositions = attentions[0].positions(x_BTD, frames_B)
    if positions.row is not None and any(map(is_compiled, [*layers, *attentions])):
        return positions._replace(row=None)
    return positions


def _is_frozen(tensor: Tensor) -> bool:
    """Whether torch lets nobody write into it: made in inference mode and used outside. Not asked while compiling."""
    return not torch.compiler.is_compiling() and tensor.is_inference() and not torch.is_inference_mode_enabled()


def _attend_chunk(q: Tensor, k: Tensor, v: Tensor, cache: KVCache, positions: FramePositions) -> tuple[Tensor, KVCache]:
    """Several frames: the ring is laid out in order of time before them."""
    assert positions.read_slots is not None and positions.write_slots is not None
    read, write = positions.read_slots, positions.write_slots
    keys = torch.cat([cache.keys.gather(2, read).to(k.dtype), k], dim=2)
    values = torch.cat([cache.values.gather(2, read).to(v.dtype), v], dim=2)
    kept = write.shape[2]
    after = KVCache(_put(cache.keys, write, k[:, :, -kept:]), _put(cache.values, write, v[:, :, -kept:]))
    return _attend(q, keys, values, positions.bands), after


def _put(ring: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """The ring with new keys or values, in its own dtype: mixed precision may compute them in another."""
    return ring.scatter(2, slots, new.to(ring.dtype))
