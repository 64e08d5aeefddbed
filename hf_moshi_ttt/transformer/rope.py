"""Rotary positions with interleaved pairs, exact at any position of a long stream.

Phases are reduced in float64 before the cosine: in float32 a score loses 8e-3 after an hour and 3e-2 after ten. In a
single frame, whose cost is the calls it makes, a pair is a complex number and its rotation one product.
"""

import math
from functools import cache

import torch
from torch import Tensor

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


def rotate_(x: Tensor, phases: Phases) -> Tensor:
    """`apply_rope` of a single frame in place, of x `[..., F]` or of its pairs as complex numbers `[..., F / 2]`."""
    if x.is_complex() and isinstance(phases, Tensor):
        return x.mul_(phases)
    return x.copy_(apply_rope(x, phases))


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
