"""Rotary positions with interleaved pairs, exact at any position of a long stream.

Phases are reduced in float64 before the cosine: in float32 a score loses 8e-3 after an hour and 3e-2 after ten. In a
single frame, whose cost is the calls it makes, a pair is a complex number and its rotation one product.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .row_product import counts_kernels

Phases = Tensor | tuple[Tensor, Tensor]


def rope_phases(positions_BT: Tensor, head_dim: int, theta: float) -> Phases:
    """Cosines and signed sines `[B, 1, T, head_dim]` in float32 for integer positions: each of a pair, -sin and sin.

    Of a single frame, unless it is compiled: the rotations `[B, 1, 1, head_dim / 2]` in complex64.
    """
    if positions_BT.shape[1] == 1 and not torch.compiler.is_compiling():
        one, frequencies = _numbers(head_dim, theta, positions_BT.device)
        return torch.polar(one, positions_BT[:, None, :, None] * frequencies).to(torch.complex64)
    angles = positions_BT[:, None, :, None].double() * _frequencies(head_dim, theta, positions_BT.device)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([cos, cos], -1).flatten(-2).float(), torch.stack([-sin, sin], -1).flatten(-2).float()


def apply_rope(x_BHTF: Tensor, phases: Phases) -> Tensor:
    """Rotates pairs (0, 1), (2, 3), ... of the last axis in float32 at least; returned in the input's dtype.

    Args:
        x_BHTF: `[..., B, H, T, F]`.
    """
    pairs = x_BHTF.to(wide_dtype(x_BHTF.dtype)).unflatten(-1, (-1, 2))
    if isinstance(phases, Tensor):
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * phases).flatten(-2)
    else:
        cos, sin = phases
        rotated = torch.addcmul(pairs.flatten(-2) * cos, pairs.flip(-1).flatten(-2), sin)
    return rotated.to(x_BHTF.dtype)


def rotated_heads(projected_BTD: Tensor, num_heads: int, phases: Phases) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, which are rotated, and values, `[B, H, T, F]`, of all three `[B, T, 3 * H * F]`."""
    if not isinstance(phases, Tensor) and counts_kernels(projected_BTD):
        q, k, v = _RotatedHeads.apply(projected_BTD, num_heads, *phases)
        return q, k, v
    heads = _heads(projected_BTD, num_heads)
    q, k = apply_rope(heads[:2], phases)
    return q, k, heads[2]


def rotate_(x: Tensor, phases: Phases) -> Tensor:
    """`apply_rope` of a single frame in place, of x `[..., F]` or of its pairs as complex numbers `[..., F / 2]`."""
    if x.is_complex() and isinstance(phases, Tensor):
        return x.mul_(phases)
    return x.copy_(apply_rope(x, phases))


def _heads(projected_BTD: Tensor, num_heads: int) -> Tensor:
    """`[3, B, H, T, F]`, as a view."""
    return projected_BTD.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)


class _RotatedHeads(torch.autograd.Function):
    """The rotation without a tensor for each cast; its gradient is the rotation back, beside that of the values."""

    @staticmethod
    def forward(
        ctx: Any, projected_BTD: Tensor, num_heads: int, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        heads = _heads(projected_BTD, num_heads)
        q, k = _rotated(heads[:2], cos, sin)
        return q, k, heads[2]

    @staticmethod
    def backward(ctx: Any, *grads_BHTF: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        is_differentiated = torch.is_grad_enabled()  # the gradient itself
        if is_differentiated:
            of_q, of_k, of_v = grads_BHTF
            grads_BHTF = apply_rope(of_q, (cos, -sin)), apply_rope(of_k, (cos, -sin)), of_v
        grad = torch.cat([x.transpose(1, 2).flatten(-2) for x in grads_BHTF], dim=-1)
        if not is_differentiated:
            turning = _heads(grad, grads_BHTF[0].shape[1])[:2]
            _rotated(turning, cos, sin, direction=-1, out=turning)
        return grad, None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: float = 1, out: Tensor | None = None) -> Tensor:
    """`apply_rope` in three kernels: products are in the phases' dtype, and the sum is rounded to that of x."""
    products = x * cos
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    if out is None:
        out = torch.empty_like(products, dtype=x.dtype)
    return torch.addcmul(products, swapped, sin, value=direction, out=out)


@cache
def _numbers(head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """1 and the frequencies as tensors, which nobody may write to."""
    with torch.inference_mode(False):
        return torch.ones((), dtype=torch.float64, device=device), _frequencies(head_dim, theta, device)


def _frequencies(head_dim: int, theta: float, device: torch.device) -> Tensor:
    pairs = torch.arange(head_dim // 2, device=device, dtype=torch.float32)
    return torch.exp(pairs * (-math.log(theta) * 2 / head_dim)).double()


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for itself, float32 for every other floating-point dtype."""
    return dtype if dtype == torch.float64 else torch.float32
