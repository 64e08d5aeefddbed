"""The activation of a gated feed-forward, whose backward pass keeps its input alone.

Written as `silu(gate) * value`, autograd keeps both halves and silu(gate); of all that a training step holds, the third
is a tenth. It is computed again instead, and both gradients are written into one tensor.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_silu(hidden: Tensor) -> Tensor:
    """silu(gate) * value, `[..., F]`, of `[..., 2 * F]`: the gate, then the value."""
    if hidden.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _GatedSiLU.apply(hidden)
    gate, value = hidden.chunk(2, dim=-1)
    return F.silu(gate) * value


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        gate, value = hidden.chunk(2, dim=-1)
        return F.silu(gate).mul_(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient is itself differentiated
            return _differentiable_gradient(hidden, grad)
        gate, value = hidden.chunk(2, dim=-1)
        grad_hidden = torch.empty_like(hidden)
        grad_gate, grad_value = grad_hidden.chunk(2, dim=-1)
        torch.mul(F.silu(gate), grad, out=grad_value)
        torch.ops.aten.silu_backward.grad_input(grad * value, gate, grad_input=grad_gate)
        return grad_hidden


def _differentiable_gradient(hidden: Tensor, grad: Tensor) -> Tensor:
    """The gradient as a function of both."""
    gate, value = hidden.chunk(2, dim=-1)
    share = torch.sigmoid(gate)
    return torch.cat([grad * value * share * (1 + gate * (1 - share)), grad * gate * share], dim=-1)
