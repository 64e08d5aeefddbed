"""Linears of all codebooks as one batched product, where nothing but their weights decides what they compute.

The depth transformer keeps an `nn.Linear` per codebook, so that adapters, quantization and offloading find each by its
name. Where none of them has touched the linears, their weights are stacked for the call; otherwise each is called.

Legend: Q codebooks, N rows, I and O width in and out.
"""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def linear_per_codebook(linears: Iterable[Any], x_QNI: Tensor) -> Tensor:
    """`[Q, N, O]`: row q through linear q."""
    linears = list(linears)
    if len(linears) > 1 and all(is_plain(linear) for linear in linears):
        return torch.bmm(x_QNI, torch.stack([linear.weight for linear in linears]).mT)
    return torch.stack([linear(x) for linear, x in zip(linears, x_QNI.unbind(0), strict=True)])


def mlp_per_codebook(mlps: Iterable[Any], x_QNI: Tensor) -> Tensor:
    """`[Q, N, I]`: row q through feed-forward (`GatedMLP`) q."""
    mlps = list(mlps)
    if any(_has_hooks(mlp) for mlp in mlps):
        return torch.stack([mlp(x) for mlp, x in zip(mlps, x_QNI.unbind(0), strict=True)])
    gate, value = linear_per_codebook([mlp.fc1 for mlp in mlps], x_QNI).chunk(2, dim=-1)
    return linear_per_codebook([mlp.fc2 for mlp in mlps], F.silu(gate) * value)


def is_plain(module: nn.Module) -> bool:
    """Whether a module is an `nn.Linear` without bias that computes what its weight says and nothing else."""
    return (
        type(module) is nn.Linear
        and module.bias is None
        and type(module.weight) in (nn.Parameter, Tensor)
        and not _has_hooks(module)
    )


def _has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its class: hooks, or a forward of its own, as accelerate gives it."""
    return "forward" in module.__dict__ or any(getattr(module, name) for name in _HOOKS)
