"""The norm of few passes against torch's: outputs and gradients, rows of zeros, any layout, narrow dtypes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_moshi_ttt.transformer.rms_norm import norm_numbers, rms_norm, row_norm

EPS = 1e-3


def rows(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 8, dtype=dtype)
    x[0, 1] *= 1e-2  # where eps counts
    x[1, 2] = 0
    return x, torch.randn(8, dtype=dtype)


@pytest.mark.parametrize("weighted", [True, False])
def test_outputs_and_gradients_are_those_of_torch(weighted: bool) -> None:
    x, weight = rows()
    leaves = [x.requires_grad_(), weight.requires_grad_()] if weighted else [x.requires_grad_()]
    given = weight if weighted else None
    found, expected = rms_norm(x, given, EPS), F.rms_norm(x, (8,), given, EPS)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(rms_norm(x, given, EPS), found)
    toward = torch.randn_like(found)
    pairs = [torch.autograd.grad(y, leaves, toward) for y in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-14), (torch.float32, 5e-7), (torch.bfloat16, 0)], ids=str
)
def test_one_row_equals_many(dtype: torch.dtype, rtol: float) -> None:
    x, weight = rows(dtype)
    with torch.no_grad():
        for row, normed in zip(x.view(-1, 8), rms_norm(x, weight, EPS).view(-1, 8), strict=True):
            for shape in ((8,), (1, 1, 8)):
                found = row_norm(row.view(shape), weight, EPS)
                torch.testing.assert_close(found, normed.view(shape), rtol=rtol, atol=0)


def test_a_frozen_weight_gets_no_gradient_and_a_frozen_input_needs_none() -> None:
    x, weight = rows()
    (grad,) = torch.autograd.grad(rms_norm(x, weight.requires_grad_(), EPS).square().sum(), [weight])
    (expected,) = torch.autograd.grad(F.rms_norm(x, (8,), weight, EPS).square().sum(), [weight])
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)
    out = rms_norm(x.requires_grad_(), weight.detach(), EPS)
    out.sum().backward()
    assert x.grad is not None


def test_rows_of_any_layout_and_none_at_all() -> None:
    x, weight = rows(torch.float32)
    turned = x.transpose(0, 2)
    torch.testing.assert_close(rms_norm(turned, weight, EPS), F.rms_norm(turned, (8,), weight, EPS))
    leaf = turned.detach().requires_grad_()
    (grad,) = torch.autograd.grad(rms_norm(leaf, weight, EPS).sum(), leaf)
    (expected,) = torch.autograd.grad(F.rms_norm(leaf, (8,), weight, EPS).sum(), leaf)
    torch.testing.assert_close(grad, expected)
    assert rms_norm(x[:, :0], weight, EPS).shape == (2, 0, 5, 8)


def test_gradients_are_exact_to_float32_under_autocast() -> None:
    x, weight = rows(torch.float32)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    plain = torch.autograd.grad(rms_norm(x, weight, EPS).sin().sum(), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = torch.autograd.grad(rms_norm(x, weight, EPS).sin().sum(), leaves)
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)


def test_bfloat16_is_computed_as_torch_computes_it() -> None:
    x, weight = rows(torch.bfloat16)
    assert torch.equal(rms_norm(x, weight, EPS), F.rms_norm(x, (8,), weight, EPS))


@pytest.mark.parametrize("weighted", [True, False])
def test_gradients_have_gradients(weighted: bool) -> None:
    x, weight = rows()
    x, weight = x[:, :1, :2].contiguous().requires_grad_(), weight.requires_grad_()
    if weighted:
        torch.autograd.gradgradcheck(lambda x, weight: rms_norm(x, weight, EPS), (x, weight))
    else:
        torch.autograd.gradgradcheck(lambda x: rms_norm(x, None, EPS), (x,))
    for needed in (x, weight):
        out = rms_norm(x if needed is x else x.detach(), weight if needed is weight else weight.detach(), EPS)
        assert torch.autograd.grad(out.sin().sum(), needed, create_graph=True)[0].requires_grad


def test_numbers_that_are_kept_are_the_cpus_whoever_asks_first() -> None:
    with torch.device("meta"):
        found = norm_numbers(0.123, torch.float64)
    assert {number.device.type for number in found} == {"cpu"}
