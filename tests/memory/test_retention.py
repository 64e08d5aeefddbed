"""The learned retention: its start, its equation, and none where a memory keeps everything."""

import math

import pytest
import torch
from torch import nn

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory.retention import LearnedRetention


def make(**options: object) -> LearnedRetention:
    learner = LearnedRetention()
    learner.config = TTTConfig(**options)
    learner.make_retention(num_heads=2)
    learner.reset_retention()
    return learner


def test_it_starts_as_the_configuration_says() -> None:
    learner = make(initial_retention=0.5, mini_batch_size=4)
    found = learner.log_retention(torch.zeros(1, 2, 3))
    torch.testing.assert_close(found, torch.full((1, 2, 3), math.log(0.5) / 4))


def test_it_is_the_equation_of_each_head() -> None:
    learner = make()
    nn.init.normal_(learner.decay_bias)
    nn.init.normal_(learner.log_decay_scale)
    gates = torch.randn(3, 2, 5)
    for head, (bias, scale) in enumerate(zip(learner.decay_bias, learner.log_decay_scale, strict=True)):
        expected = -scale.exp() * (1 + (gates[:, head] + bias).exp()).log()
        torch.testing.assert_close(learner.log_retention(gates)[:, head], expected)


@pytest.mark.parametrize("gate", [0.0, 100.0])
def test_without_it_everything_is_kept(gate: float) -> None:
    learner = make(forget="none")
    assert not list(learner.parameters())
    assert torch.equal(learner.log_retention(torch.full((1, 2, 3), gate)), torch.zeros(1, 2, 3))
