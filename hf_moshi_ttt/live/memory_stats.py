"""What the memories of one stream are, as numbers: norm, size and the strength of the last write."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..memory.naive import MemoryDiagnostics
from ..transformer.stream_state import StreamState

# The tensors of learners' states that hold what was learned; the others hold frames that the rule still needs.
_LEARNED = ("fast_weights", "delta_weights", "delta_biases", "matrix")


def learned_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the named tensors of a memory, those that hold what was learned."""
    return {name: tensor for name, tensor in tensors.items() if any(part in _LEARNED for part in name.split("."))}


def norm_of(tensors: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all values together; 0 where there are none."""
    return sum(float(tensor.double().square().sum()) for tensor in tensors.values()) ** 0.5


def memory_stats(memory: StreamState, row: int) -> dict[str, Any]:
    """`norm` of what a row of a memory has learned, and its `num_bytes`."""
    own = {name: tensor[row] for name, tensor in memory.named_tensors().items()}
    return {"norm": norm_of(learned_tensors(own)), "num_bytes": sum(tensor.nbytes for tensor in own.values())}


def write_strength(diagnostics: Sequence[MemoryDiagnostics]) -> Tensor:
    """The mean over heads of each layer's last step, `[L, B]`; NaN for learners without one."""
    strengths = [
        torch.full_like(found.key_dependent_share, torch.nan) if found.write_strength is None else found.write_strength
        for found in diagnostics
    ]
    return torch.stack(strengths).float().mean(-1)
