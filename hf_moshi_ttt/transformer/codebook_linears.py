"""Linears of all codebooks as one batched product, where nothing but their weights decides what they compute.

The depth transformer keeps an `nn.Linear` per codebook, so that adapters, quantization and offloading find each by its
name. Where none of them has touched the linears, or the same plain LoRA adapter has (`adapted_linear.py`), their
weights are stacked for the call; otherwise each is called. A CPU gains nothing from one product instead of eight, so
there they are written side by side and no weight is copied.

Legend: Q codebooks, N rows, I and O width in and out.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .adapted_linear import adapted_product, adapted_products_of_one, plain_adapters, stacked_adapters
from .gated_silu import gated_silu
from .row_product import counts_kernels, has_hooks, is_plain


def linear_per_codebook(linears: Iterable[Any], x_QNI: Tensor) -> Tensor:
    """`[Q, N, O]`: row q through linear q."""
    return products_per_codebook(linears, x_QNI)(x_QNI)


def products_per_codebook(linears: Iterable[Any], like_QNI: Tensor) -> Callable[[Tensor], Tensor]:
    """What `linear_per_codebook` computes of `[Q, N, I]` as `like`, with any N; weights are stacked once."""
    linears = list(linears)
    one_by_one = _products_one_by_one(like_QNI)
    if len(linears) > 1 and all(is_plain(linear) for linear in linears):
        weights = [linear.weight for linear in linears]
        if one_by_one:
            return lambda x_QNI: _Products.apply(x_QNI, *weights)
        stacked = torch.stack(weights).mT
        return lambda x_QNI: torch.bmm(x_QNI, stacked)
    adapters = plain_adapters(linears) if len(linears) > 1 and not one_by_one else None
    if adapters is not None:
        return partial(adapted_product, stacked_adapters(adapters))
    return lambda x_QNI: torch.stack([linear(x) for linear, x in zip(linears, x_QNI.unbind(0), strict=True)])


def each_linear(linears: Iterable[Any], x: Tensor) -> Tensor:
    """`[Q, ..., O]`: x `[..., I]` through every linear."""
    linears = list(linears)
    adapters = plain_adapters(linears) if counts_kernels(x) else None
    if adapters is None:
        return torch.stack([linear(x) for linear in linears])
    return adapted_products_of_one(adapters, x.flatten(0, -2)).unflatten(1, x.shape[:-1])


def mlp_per_codebook(mlps: Iterable[Any], x_QNI: Tensor) -> Tensor:
    """`[Q, N, I]`: row q through feed-forward (`GatedMLP`) q."""
    mlps = list(mlps)
    if any(has_hooks(mlp) for mlp in mlps):
        return torch.stack([mlp(x) for mlp, x in zip(mlps, x_QNI.unbind(0), strict=True)])
    hidden = linear_per_codebook([mlp.fc1 for mlp in mlps], x_QNI)
    return linear_per_codebook([mlp.fc2 for mlp in mlps], gated_silu(hidden))


def _products_one_by_one(x: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and not torch.is_autocast_enabled("cpu")


class _Products(torch.autograd.Function):
    """`x_QNI[q] @ weight[q].T`; the gradient of each weight is a tensor of its own, which autograd takes as it is."""

    @staticmethod
    def forward(ctx: Any, x_QNI: Tensor, *weights_OI: Tensor) -> Tensor:
        ctx.save_for_backward(x_QNI, *weights_OI)
        out = x_QNI.new_empty(*x_QNI.shape[:2], weights_OI[0].shape[0])
        for x, weight, product in zip(x_QNI, weights_OI, out, strict=True):
            torch.mm(x, weight.mT, out=product)
        return out

    @staticmethod
    def backward(ctx: Any, grad_QNO: Tensor) -> tuple[Tensor | None, ...]:
        x_QNI, *weights_OI = ctx.saved_tensors
        needs_x, *needs_weight = ctx.needs_input_grad
        if torch.is_grad_enabled():  # the gradients are themselves differentiated
            of_x = torch.bmm(grad_QNO, torch.stack(weights_OI)) if needs_x else None
            of_weights = torch.bmm(grad_QNO.mT, x_QNI).unbind(0)
            return of_x, *(each if needed else None for each, needed in zip(of_weights, needs_weight, strict=True))
        grad_x = torch.empty_like(x_QNI, memory_format=torch.contiguous_format) if needs_x else None
        grad_weights: list[Tensor | None] = []
        for q, (x, weight, grad) in enumerate(zip(x_QNI, weights_OI, grad_QNO, strict=True)):
            if grad_x is not None:
                torch.mm(grad, weight, out=grad_x[q])
            grad_weights.append(torch.mm(grad.mT, x) if needs_weight[q] else None)
        return grad_x, *grad_weights
