"""Constant tensors of a configuration, made once for each device: a tensor made in every frame is a copy to the GPU in
every frame, for which it waits."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor


def constant(values: Sequence[int], device: torch.device) -> Tensor:
    """The values as an int64 tensor, which nobody may write to."""
    if torch.compiler.is_compiling():  # which makes constants of its own
        return torch.tensor(list(values), device=device)
    return _made(tuple(values), device)


@cache
def _made(values: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # made in it, no gradient could pass an operation with it
        return torch.tensor(values, device=device)
