"""The step of each row: its own loss, its own gradient, its own cut."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.rivals.inner_step import row_losses, row_steps
from hf_moshi_ttt.transformer.losses import target_weights, weighted_mean

from ..conftest import random_codes

CONFIG = MoshiTTTConfig.from_preset("tiny", ttt=None, text_loss_weight=0.7)


def test_a_row_has_the_loss_that_the_model_has_of_it_alone() -> None:
    codes = random_codes(CONFIG, batch=3, frames=6, absent=0.3)
    losses = torch.rand(3, 9, 6)
    for row, found in enumerate(row_losses(losses, codes, CONFIG)):
        own, weights = losses[row], target_weights(codes[row : row + 1], CONFIG)[0]
        expected = 0.7 * weighted_mean(own[:1], weights[:1]) + weighted_mean(own[1:], weights[1:])
        torch.testing.assert_close(found, expected)


def test_a_row_without_codes_has_no_loss() -> None:
    codes = torch.full((1, 17, 4), -1)
    assert row_losses(torch.zeros(1, 9, 4), codes, CONFIG).tolist() == [0.0]


def cubes(weights: list[Tensor]) -> Tensor:
    return torch.stack([weight.pow(3).flatten(1).sum(1) for weight in weights]).sum(0)


def make_weights() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, *shape, dtype=torch.float64, requires_grad=True) for shape in [(2, 3), (4,)]]


def test_steps_are_gradients_that_are_cut_row_by_row() -> None:
    weights = make_weights()
    with torch.no_grad():
        weights[0][1] *= 0.01
        weights[1][1] *= 0.01
    steps, norms = row_steps(cubes(weights), weights, 0.5, second_order=False, retain_graph=False)
    for row in range(3):
        raw = [3 * weight[row].detach() ** 2 for weight in weights]
        norm = torch.sqrt(raw[0].square().sum() + raw[1].square().sum())
        torch.testing.assert_close(norms[row], norm)
        for step, gradient in zip(steps, raw, strict=True):
            torch.testing.assert_close(step[row], gradient * min(1.0, 0.5 / float(norm)))
    assert norms[1] < 0.5 < norms[0] and not steps[0].requires_grad


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_steps_can_be_differentiated(max_norm: float) -> None:
    weights = make_weights()

    def steps(*given: Tensor) -> tuple[Tensor, ...]:
        return row_steps(cubes(list(given)), given, max_norm, second_order=True, retain_graph=True)[0]

    assert torch.autograd.gradcheck(steps, tuple(weights))


def test_a_row_without_loss_takes_no_step_and_leaves_no_nan() -> None:
    weights = [torch.zeros(2, 3, requires_grad=True)]
    steps, norms = row_steps(cubes(weights), weights, 1.0, second_order=True, retain_graph=True)
    assert not steps[0].any() and norms.tolist() == [0.0, 0.0]
    assert torch.autograd.grad(steps[0].sum(), weights)[0].isfinite().all()
