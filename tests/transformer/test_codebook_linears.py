"""The batched product equals the linears one by one, and whatever touches a linear is called."""

from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import Tensor, nn

from hf_moshi_ttt.transformer.attention import GatedMLP
from hf_moshi_ttt.transformer.codebook_linears import linear_per_codebook, mlp_per_codebook
from hf_moshi_ttt.transformer.row_product import is_plain


def linears(count: int = 3) -> list[Any]:
    torch.manual_seed(0)
    return [nn.Linear(4, 6, bias=False).double() for _ in range(count)]


def one_by_one(modules: list[Any], x_QNI: Tensor) -> Tensor:
    return torch.stack([module(x) for module, x in zip(modules, x_QNI, strict=True)])


def test_a_batched_product_is_each_linear_on_its_row() -> None:
    modules, x = linears(), torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(linear_per_codebook(modules, x), one_by_one(modules, x))
    gradients = [
        torch.autograd.grad(found.square().sum(), [module.weight for module in modules])
        for found in (linear_per_codebook(modules, x), one_by_one(modules, x))
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)


def test_frozen_linears_and_inputs_take_no_gradient() -> None:
    modules, x = linears(), torch.randn(3, 5, 4, dtype=torch.float64)
    modules[1].requires_grad_(False)
    linear_per_codebook(modules, x).sum().backward()
    assert [module.weight.grad is None for module in modules] == [False, True, False]
    x.requires_grad_()
    one_by_one(modules, x).sum().backward()
    expected, x.grad = x.grad, None
    for module in modules:
        module.requires_grad_(False)
    linear_per_codebook(modules, x).sum().backward()
    torch.testing.assert_close(x.grad, expected)


def test_the_product_in_one_call_is_that_of_each_codebook() -> None:
    modules, x = linears(), torch.randn(3, 5, 4, dtype=torch.float64)
    found = linear_per_codebook(modules, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # where the weights are stacked
        stacked = linear_per_codebook([module.float() for module in modules], x.float())
    torch.testing.assert_close(stacked.double(), found, rtol=2e-2, atol=2e-2)


def test_gradients_have_gradients() -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(3, 2, bias=False, dtype=torch.float64) for _ in range(2)]
    x_QNI = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    weights = [linear.weight for linear in linears]
    torch.autograd.gradgradcheck(lambda x, *_: linear_per_codebook(linears, x).sin(), (x_QNI, *weights))


def test_batched_feed_forwards_are_each_on_its_row() -> None:
    torch.manual_seed(0)
    mlps, x = [GatedMLP(4, 12).double() for _ in range(3)], torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(mlp_per_codebook(mlps, x), one_by_one(mlps, x))
    mlps[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(mlp_per_codebook(mlps, x), one_by_one(mlps, x))


class Doubled(nn.Linear):
    """A linear of another class, as adapters and quantization make them."""

    def forward(self, x: Tensor) -> Tensor:
        """Twice the product."""
        return 2 * super().forward(x)


def doubled_by_hook(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    return module


def doubled_by_accelerate(module: nn.Module) -> nn.Module:
    class Double(ModelHook):
        def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
            return 2 * output

    return add_hook_to_module(module, Double())


def of_another_class(module: nn.Module) -> nn.Module:
    other = Doubled(4, 6, bias=False).double()
    other.load_state_dict(module.state_dict())
    return other


@pytest.mark.parametrize("touch", [doubled_by_hook, doubled_by_accelerate, of_another_class])
def test_what_touches_a_linear_is_called(touch: Any) -> None:
    modules, x = linears(), torch.randn(3, 5, 4, dtype=torch.float64)
    plain = one_by_one(modules, x)
    modules[1] = touch(modules[1])
    assert [is_plain(module) for module in modules] == [True, False, True]
    found = linear_per_codebook(modules, x)
    torch.testing.assert_close(found[1], 2 * plain[1])
    torch.testing.assert_close(found[::2], plain[::2])
