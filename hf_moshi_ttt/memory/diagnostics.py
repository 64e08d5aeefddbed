"""What the memory of a TTT layer does as one number a quantity, and the names under which training logs them.

The quantities are those of `MemoryDiagnostics`, averaged over rows, heads and channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from .naive import MemoryDiagnostics

QUANTITIES = tuple(field.name for field in fields(MemoryDiagnostics))
LOG_PREFIX = "ttt/layer_"


def log_key(layer: int, name: str) -> str:
    """The name under which the trainer logs a quantity of a layer."""
    return f"{LOG_PREFIX}{layer}/{name}"


def means_by_layer(
    layers: Sequence[int], found: Sequence[MemoryDiagnostics] | None, codes_BKT: Tensor
) -> Iterator[tuple[int, str, Tensor]]:
    """Layer, quantity and mean of everything that the memories of a call did.

    Args:
        layers: index of each TTT layer of the model.
        found: `diagnostics` of the model's output, None where they were not asked for.
        codes_BKT: the codes of the call.
    """
    present_BT = present_frames(codes_BKT)
    for layer, diagnostics in zip(layers, found or (), strict=False):
        for name, value in layer_means(diagnostics, present_BT).items():
            yield layer, name, value


def of_branch(found: MemoryDiagnostics, gate_D: Tensor, branch_BTD: Tensor, residual_BTD: Tensor) -> MemoryDiagnostics:
    """With what the layer is to its model: the gate, and the branch in units of the stream that it is added to."""
    branch_rms, residual_rms = (x.float().square().mean(-1).sqrt() for x in (branch_BTD, residual_BTD))
    ratio = (branch_rms / residual_rms).masked_fill(residual_rms == 0, torch.nan)
    return replace(found, gate=gate_D, branch_to_residual=ratio)


def layer_means(found: MemoryDiagnostics, present_BT: Tensor) -> dict[str, Tensor]:
    """The mean of each known quantity of a layer, as tensors on its device; of the gate, the mean size.

    Args:
        present_BT: False for frames that are padding, which losses and the branch leave out.
    """
    means = {}
    for name in QUANTITIES:
        value = getattr(found, name)
        if value is None:
            continue
        value = value.abs() if name == "gate" else value
        if name.startswith("loss_"):
            value = value.masked_fill(~present_BT[:, None], torch.nan)
        elif name == "branch_to_residual":
            value = value.masked_fill(~present_BT, torch.nan)
        means[name] = value.float().nanmean()
    return means


def present_frames(codes_BKT: Tensor) -> Tensor:
    """`[B, T]`, False for frames of absent codes alone, such as padding."""
    return (codes_BKT >= 0).any(dim=1)
