"""`FastGatedMLP`: a gated feed-forward with a second one beside it, whose weights may differ from row to row.

Legend: B batch, T frames, D model width, I hidden width.
"""

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..transformer.attention import GatedMLP

_FAST_WEIGHTS = ("fast_fc1", "fast_fc2")


class FastGatedMLP(GatedMLP):
    """`fc1` and `fc2` as in `GatedMLP`, and the same again from `fast_fc1` `[2 I, D]` and `fast_fc2` `[D, I]`.

    The two are added. The fast one's last weight starts at zero, so that a fresh layer is the slow one alone.
    `torch.func.functional_call` may put weights of each row in the place of the fast ones: `[B, 2 I, D]`, `[B, D, I]`.
    """

    fast_fc1: Tensor
    fast_fc2: Tensor

    @classmethod
    def beside(cls, slow: GatedMLP) -> Self:
        """With the weights of a feed-forward, which it shares, and a fresh fast one of the same size."""
        hidden_size, half = slow.fc2.weight.shape
        made = cls(hidden_size, 2 * half)
        made.fc1, made.fc2 = slow.fc1, slow.fc2
        std = 1 / math.sqrt(hidden_size)
        fc1, fc2 = torch.empty_like(slow.fc1.weight), torch.zeros_like(slow.fc2.weight)
        made.fast_fc1 = nn.Parameter(nn.init.trunc_normal_(fc1, std=std, a=-3 * std, b=3 * std))
        made.fast_fc2 = nn.Parameter(fc2)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`."""
        gate, value = (x @ self.fast_fc1.mT).chunk(2, dim=-1)
        return super().forward(x) + (F.silu(gate) * value) @ self.fast_fc2.mT


def fast_weight_names(model: nn.Module) -> tuple[str, ...]:
    """The names of a model's fast weights, in order."""
    return tuple(name for name, _ in model.named_parameters() if name.rpartition(".")[2] in _FAST_WEIGHTS)
