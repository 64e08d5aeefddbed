"""The activation against its definition: outputs, gradients, and what is kept for the backward pass."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_moshi_ttt.transformer.gated_silu import gated_silu


def definition(hidden: Tensor) -> Tensor:
    gate, value = hidden.chunk(2, dim=-1)
    return F.silu(gate) * value


def test_outputs_and_gradients_are_those_of_the_definition_bit_for_bit() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 8).transpose(0, 1).requires_grad_()
    found, expected = gated_silu(hidden), definition(hidden)
    toward = torch.randn_like(expected)
    gradients = [torch.autograd.grad(y, hidden, toward)[0] for y in (found, expected)]
    assert torch.equal(found, expected) and torch.equal(*gradients)
    with torch.no_grad():
        assert torch.equal(gated_silu(hidden), found)


def test_the_input_alone_is_kept() -> None:
    hidden, kept = torch.randn(4, 6, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.data_ptr()) or x, lambda x: x):
        gated_silu(hidden)
    assert kept == [hidden.data_ptr()]


def test_the_gradient_has_a_gradient() -> None:
    torch.manual_seed(0)
    torch.autograd.gradgradcheck(gated_silu, (torch.randn(3, 8, dtype=torch.float64, requires_grad=True),))
