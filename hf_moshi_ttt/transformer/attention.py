"""Sliding-window self-attention, whole, in chunks or frame by frame, and the parts both transformers share.

A query at position p sees the keys at p - W + 1 .. p. A whole sequence within the window is one causal SDPA call
without a mask; a longer one runs in blocks of queries that each see a band of keys, so no T x T mask is ever built. A
stream keeps its last W keys and values in a ring, slot = position mod W, with each row at its own position.

Legend: B batch, H heads, T frames, W window, F head width, D model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import apply_rope, rope_phases
from .stream_state import StreamState

_MIN_BLOCK_FRAMES = 128


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in float32 at least."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]` in the input's dtype."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        inverse_rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * (self.weight.to(wide.dtype) * inverse_rms)).to(x.dtype)


class GatedMLP(nn.Module):
    """SiLU-gated feed-forward; `fc1` holds the gate's rows, then the value's."""

    def __init__(self, hidden_size: int, ffn_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden_size, ffn_dim, bias=False)
        self.fc2 = nn.Linear(ffn_dim // 2, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        gate, value = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


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

    def forward(
        self, x_BTD: Tensor, cache: KVCache | None = None, frames_B: Tensor | None = None
    ) -> tuple[Tensor, KVCache | None]:
        """Attends over `x` `[B, T, D]` and, where there is one, the stream before it.

        Args:
            cache: the ring of a stream to continue, or None for a sequence that starts here. One frame without
                gradients is written into the ring in place; otherwise a new ring is returned.
            frames_B: `[B]` int64, frames of each row so far; given with `cache`.

        Returns:
            `[B, T, D]` and the ring after the last frame, None where none was given.
        """
        q, k, v = self.qkv_proj(x_BTD).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        length = x_BTD.shape[1]
        start = x_BTD.new_zeros(1, dtype=torch.int64) if frames_B is None else frames_B
        positions_BT = start[:, None] + torch.arange(length, device=x_BTD.device)
        phases = rope_phases(positions_BT, self.head_dim, self.rope_theta)
        q, k = apply_rope(q, phases), apply_rope(k, phases)
        if cache is None or frames_B is None:
            out = _attend_band(q, k, v, self.window)
        elif length == 1:
            out, cache = _attend_frame(q, k, v, cache, frames_B)
        else:
            out, cache = _attend_chunk(q, k, v, cache, positions_BT)
        return self.o_proj(out.transpose(1, 2).flatten(-2)), cache


def _attend_band(q: Tensor, k: Tensor, v: Tensor, window: int, valid_BS: Tensor | None = None) -> Tensor:
    """Each query sees the `window` keys that end at its own; keys may begin with past frames that have no query.

    Args:
        q: `[B, H, T, F]`; k, v: `[B, H, S, F]` with S >= T, aligned at their ends.
        valid_BS: False for keys that do not exist.
    """
    length, past = q.shape[2], k.shape[2] - q.shape[2]
    if past == 0 and length <= window and valid_BS is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    block = max(window, _MIN_BLOCK_FRAMES)
    outputs = []
    for first in range(0, length, block):
        last = min(first + block, length)
        start = max(0, past + first - window + 1)
        queries = torch.arange(past + first, past + last, device=q.device)[:, None]
        keys = torch.arange(start, past + last, device=q.device)
        mask = (keys <= queries) & (keys > queries - window)
        if valid_BS is not None:
            mask = mask & valid_BS[:, None, None, start : past + last]
        span = slice(start, past + last)
        outputs.append(
            F.scaled_dot_product_attention(q[:, :, first:last], k[:, :, span], v[:, :, span], attn_mask=mask)
        )
    return torch.cat(outputs, dim=2)


def _attend_frame(q: Tensor, k: Tensor, v: Tensor, cache: KVCache, frames_B: Tensor) -> tuple[Tensor, KVCache]:
    """One frame: its key takes the slot of the one that left the window, and the query sees every slot in use."""
    window = cache.keys.shape[2]
    slot = (frames_B % window)[:, None, None, None].expand_as(k)
    frozen = cache.keys.is_inference() and not torch.is_inference_mode_enabled()  # torch lets nobody write into it
    if frozen or torch.is_grad_enabled():
        cache = KVCache(_put(cache.keys, slot, k), _put(cache.values, slot, v))
    else:
        cache.keys.scatter_(2, slot, k.to(cache.keys.dtype))
        cache.values.scatter_(2, slot, v.to(cache.values.dtype))
    in_use = torch.arange(window, device=q.device) <= frames_B[:, None]
    keys, values = cache.keys.to(q.dtype), cache.values.to(q.dtype)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=in_use[:, None, None, :])
    return out, cache


def _attend_chunk(q: Tensor, k: Tensor, v: Tensor, cache: KVCache, positions_BT: Tensor) -> tuple[Tensor, KVCache]:
    """Several frames: the ring is laid out in order of time before them."""
    window = cache.keys.shape[2]
    before = positions_BT[:, :1] + torch.arange(-(window - 1), 0, device=q.device)  # [B, W - 1]
    slots = (before % window)[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    keys = torch.cat([cache.keys.gather(2, slots).to(k.dtype), k], dim=2)
    values = torch.cat([cache.values.gather(2, slots).to(v.dtype), v], dim=2)
    valid_BS = torch.cat([before >= 0, torch.ones_like(positions_BT, dtype=torch.bool)], dim=1)
    out = _attend_band(q, keys, values, window, valid_BS)
    kept = (positions_BT[:, -window:] % window)[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    return out, KVCache(_put(cache.keys, kept, k[:, :, -window:]), _put(cache.values, kept, v[:, :, -window:]))


def _put(ring: Tensor, slots: Tensor, new: Tensor) -> Tensor:
    """The ring with new keys or values, in its own dtype: mixed precision may compute them in another."""
    return ring.scatter(2, slots, new.to(ring.dtype))
