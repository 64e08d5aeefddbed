"""One row through linears: the values of `nn.Linear`, in fewer calls, and what touches a linear is called."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hf_moshi_ttt.transformer.adapted_linear import linear_of
from hf_moshi_ttt.transformer.row_product import (
    is_one_row,
    is_plain,
    may_write,
    product_into,
    row_plus_product,
    row_product,
)


@pytest.fixture(params=[False, True], ids=["without bias", "with bias"])
def linear(request: pytest.FixtureRequest) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(6, 4, bias=request.param).double()


class Half(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        """Half of it."""
        return weight / 2


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        """Twice the product."""
        return 2 * super().forward(x)


def touched(linear: nn.Linear, how: str) -> nn.Module:
    if how == "hook":
        linear.register_forward_hook(lambda module, inputs, output: 2 * output)
    elif how == "parametrization":
        parametrize.register_parametrization(linear, "weight", Half())
    elif how == "class":
        linear.__class__ = Doubled
    elif how == "forward":
        linear.forward = lambda x: -nn.Linear.forward(linear, x)  # type: ignore[method-assign]
    return linear


@torch.no_grad()
@pytest.mark.parametrize("how", ["nothing", "hook", "parametrization", "class", "forward"])
def test_a_row_has_the_values_of_the_call(linear: nn.Linear, how: str) -> None:
    module, x, row = touched(linear, how), torch.randn(1, 1, 6).double(), torch.randn(4).double()
    assert is_plain(module, or_biased=True) is (how == "nothing")
    expected = module(x)
    torch.testing.assert_close(row_product(module, x[0, 0]), expected[0, 0])
    torch.testing.assert_close(row_plus_product(row, module, x[0, 0]), row + expected[0, 0])
    torch.testing.assert_close(linear_of(module, x), expected)
    torch.testing.assert_close(linear_of(module, x[0, 0]), expected[0, 0])
    out = torch.empty(4).double()
    assert row_product(module, x[0, 0], out=out) is out
    torch.testing.assert_close(out, expected[0, 0])


@torch.no_grad()
@pytest.mark.parametrize("how", ["nothing", "hook", "parametrization", "class", "forward"])
def test_rows_are_written_where_they_belong(linear: nn.Linear, how: str) -> None:
    module, x, out = touched(linear, how), torch.randn(3, 6).double(), torch.zeros(2, 3, 4).double()
    product_into(module, x, out[1])
    torch.testing.assert_close(out[1], module(x))
    assert not out[0].any()


def test_only_off_cpus_and_without_gradients_anything_is_written() -> None:
    x = torch.empty(2, 3, device="meta")
    assert not may_write(x)
    with torch.no_grad():
        assert may_write(x) and not may_write(torch.empty(2, 3))


@torch.no_grad()
def test_weights_are_read_when_they_are_used(linear: nn.Linear) -> None:
    """Nothing of a weight is kept: in-place changes, also those that autograd does not count, are seen at once."""
    x = torch.randn(6).double()
    row_product(linear, x)
    linear.weight.data += 1
    torch.testing.assert_close(row_product(linear, x), linear(x))
    linear.weight.data = torch.randn(4, 6).double()
    torch.testing.assert_close(row_product(linear, x), linear(x))


def test_rows_with_gradients_many_rows_and_autocast_are_called_as_usual() -> None:
    row: Any = torch.zeros(1, 1, 6)
    assert not is_one_row(row)
    with torch.no_grad():
        assert is_one_row(row) and not is_one_row(torch.zeros(2, 1, 6)) and not is_one_row(torch.zeros(1, 2, 6))
        assert not is_one_row(row.to("meta"))
        with torch.autocast("cpu"):
            assert not is_one_row(row)
    x, linear = torch.randn(1, 6, requires_grad=True), nn.Linear(6, 4)
    linear_of(linear, x).sum().backward()
    assert x.grad is not None and linear.weight.grad is not None
