"""A second derivative is right or refused, never left out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory.layer import TTTLayer
from hf_moshi_ttt.transformer.first_derivative import first_derivative_only


class Cube(torch.autograd.Function):
    """x^3 with its gradient by hand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @first_derivative_only("cubes", "write it as a product")
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.square() * grad


def test_the_first_is_given_and_a_second_is_refused_though_there_is_another_way_to_x() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    (grad,) = torch.autograd.grad(Cube.apply(x) + x**2, x)
    assert float(grad) == 16
    with pytest.raises(RuntimeError, match="which cubes do not have: leave it out, or write it as a product"):
        torch.autograd.grad(Cube.apply(x) + x**2, x, create_graph=True)
    with pytest.raises(RuntimeError, match="cubes"):
        torch.autograd.functional.hessian(lambda y: Cube.apply(y) + y**2, x.detach())


@pytest.mark.parametrize("settings", [{}, {"preset": "mini_batch"}, {"preset": "paper"}])
def test_that_of_a_layer_is_refused(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = TTTLayer(32, 2, TTTConfig(**settings)), torch.randn(1, 40, 32, requires_grad=True)
    torch.nn.init.normal_(layer.o_proj.weight)
    with pytest.raises(RuntimeError, match="create_graph=True asks for a second derivative"):
        torch.autograd.grad(layer(x).output.square().sum() + x.pow(3).sum(), x, create_graph=True)
