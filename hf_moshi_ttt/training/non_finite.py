"""Finds what is NaN or infinite in a step."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class NonFiniteError(RuntimeError):
    """A step gave NaN or infinity; nothing of it was applied."""


def is_finite(tensor: Tensor) -> bool:
    """Whether this process' part of a tensor is finite."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return bool(torch.isfinite(local).all())


def non_finite_names(named: Iterable[tuple[str, Tensor | None]], device: torch.device) -> list[str]:
    """The names of the tensors that are not finite on some process; every process must ask for the same ones."""
    pairs = [(name, tensor) for name, tensor in named if tensor is not None]
    wrong = torch.tensor([not is_finite(tensor) for _, tensor in pairs], dtype=torch.int32, device=device)
    if dist.is_initialized() and len(pairs):
        dist.all_reduce(wrong, op=dist.ReduceOp.MAX)
    return [name for (name, _), is_wrong in zip(pairs, wrong.tolist(), strict=True) if is_wrong]


def non_finite_gradients(model: nn.Module, device: torch.device) -> list[str]:
    """Names of the parameters with a gradient that is not finite, deepest layer first as the backward pass met them."""
    named = [(name, parameter.grad) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return non_finite_names(named[::-1], device)


def non_finite_weights(model: nn.Module, device: torch.device) -> list[str]:
    """Names of the trained weights that are not finite themselves."""
    return non_finite_names(((n, p) for n, p in model.named_parameters() if p.requires_grad), device)
