"""Silences the memory of single streams: the `memory="off"` of the evaluation, row by row.

The gate of every TTT layer is 0 in a silenced row, so its answer is not heard by what comes after it. The memory itself
goes on learning from the frames.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def silenced_rows(model: torch.nn.Module, off_B: Tensor) -> Iterator[None]:
    """The model with the answers of its memories silenced in the rows that are True; undone afterwards."""
    with ExitStack() as stack:
        if bool(off_B.any()):
            for name, module in model.named_modules():
                if name.endswith("ttt_gate"):
                    hook = module.register_forward_hook(lambda _, __, branch: _without(branch, off_B))
                    stack.callback(hook.remove)
        yield


def _without(branch: Any, off_B: Tensor) -> Any:
    """The branch `[B, T, D]` without some rows; diagnostics ask the gate `[D]` itself, which stays."""
    return branch.masked_fill(off_B[:, None, None], 0) if branch.dim() == 3 else branch
