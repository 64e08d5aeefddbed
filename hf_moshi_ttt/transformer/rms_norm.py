"""The root-mean-square norm in few passes over the data on a CPU, where torch computes it of many small operations.

With n the Euclidean norm of a row of D values, y = sqrt(D) x / sqrt(n^2 + D eps) * weight. The backward pass keeps x
and the denominators alone, `[..., 1]`. On other devices and in narrower dtypes it is torch's own.
"""

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_DTYPES = (torch.float32, torch.float64)  # torch computes narrower ones in float32


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """`[..., D]` -> `[..., D]` over the last axis.

    Args:
        weight: `[D]` in the dtype of x, or None for ones.
    """
    if x.device.type != "cpu" or x.dtype not in _DTYPES:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    if torch.compiler.is_compiling():  # which decides by itself what it keeps
        return _normed(x, weight, eps)[0]
    if torch.is_grad_enabled() and (x.requires_grad or (weight is not None and weight.requires_grad)):
        return _RMSNorm.apply(x, weight, eps)
    return _normed(x, weight, eps)[0]


def row_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` of one row on a CPU without gradients, whose denominator is a number."""
    if x.dtype not in _DTYPES:
        return rms_norm(x, weight, eps)
    width = x.shape[-1]
    smallest = math.sqrt(width * eps)
    zero, _ = norm_numbers(smallest, x.dtype)
    scale = math.sqrt(width) / math.hypot(torch.linalg.vector_norm(x).item(), smallest)
    return torch.addcmul(zero, x, weight, value=scale)


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """The normed rows, and the denominators `[..., 1]`."""
    width = x.shape[-1]
    factor, norms = math.sqrt(width), torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if torch.compiler.is_compiling():  # the same numbers, without what a compiler would take apart or not know
        denominators = torch.hypot(norms, torch.full_like(norms, math.sqrt(width * eps)))
        normed = x * factor / denominators
    else:
        zero, smallest = norm_numbers(math.sqrt(width * eps), x.dtype)
        denominators = torch.hypot(norms, smallest)
        normed = torch.addcdiv(zero, x, denominators, value=factor)
    return (normed if weight is None else normed * weight), denominators


@cache
def norm_numbers(smallest: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """0 and the smallest denominator as tensors, which nobody may write to."""
    with torch.inference_mode(False):
        return torch.zeros((), dtype=dtype, device="cpu"), torch.tensor(smallest, dtype=dtype, device="cpu")


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        normed, denominators = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, denominators)
        ctx.eps = eps
        return normed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """With r = sqrt(D) / denominator: dx = r (w g) - x (r^3 / D) sum(w g x), dw = sum over rows of r g x."""
        x, weight, denominators = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradients are themselves differentiated
            return (*_differentiable_gradients(x, weight, ctx.eps, grad), None)
        width = x.shape[-1]
        factors = math.sqrt(width) / denominators
        products = grad * x
        with torch.autocast("cpu", enabled=False):
            sums = products.sum(-1, keepdim=True) if weight is None else (products @ weight)[..., None]
            grad_weight = None
            if ctx.needs_input_grad[1]:
                grad_weight = torch.mv(products.reshape(-1, width).mT, factors.reshape(-1))
        grad_x = grad * factors if weight is None else (grad * weight).mul_(factors)
        return grad_x.addcmul_(x, factors.pow(3).mul_(sums), value=-1 / width), grad_weight, None


def _differentiable_gradients(
    x: Tensor, weight: Tensor | None, eps: float, grad: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The gradients to x and weight as functions of all three, by the same formula."""
    width = x.shape[-1]
    factors = math.sqrt(width) * torch.rsqrt(x.square().sum(-1, keepdim=True) + width * eps)
    toward = grad if weight is None else grad * weight
    of_x = factors * toward - x * factors.pow(3) * (toward * x).sum(-1, keepdim=True) / width
    return of_x, None if weight is None else (factors * grad * x).flatten(0, -2).sum(0)
