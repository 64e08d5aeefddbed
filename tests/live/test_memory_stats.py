"""The numbers of a memory, for every learner."""

import math

import pytest
import torch

from hf_moshi_ttt.live.memory_stats import learned_tensors, memory_stats, norm_of, write_strength

from ..conftest import random_codes
from .conftest import awake_model


@torch.no_grad()
@pytest.mark.parametrize(
    ("ttt", "learns", "has_strength"),
    [
        ({}, True, True),
        ({"preset": "mini_batch", "mini_batch_size": 4}, True, False),
        ({"learner": "gated_delta"}, True, False),
        ({"learner": "in_place"}, True, False),
        ({"learner": "static"}, False, False),
    ],
    ids=str,
)
def test_every_learner_has_numbers(ttt: dict, learns: bool, has_strength: bool) -> None:
    """A row's norm is that of its own learned values: 0 when fresh, and nothing else is counted."""
    model = awake_model(ttt=ttt)
    fresh = model.init_state(2)
    output = model(random_codes(model.config, 2, 9), state=fresh, diagnostics=True)
    assert memory_stats(fresh.memory[0], 1)["norm"] == 0
    stats = [memory_stats(output.state.memory[0], row) for row in range(2)]
    assert (stats[0]["norm"] > 0) == learns and (stats[0]["norm"] != stats[1]["norm"]) == learns
    assert 2 * stats[0]["num_bytes"] == output.state.memory[0].num_bytes()
    strength = write_strength(output.diagnostics)
    assert strength.shape == (1, 2) and strength.isnan().all() != has_strength


def test_norms_are_of_what_was_learned_alone() -> None:
    tensors = {"memory.0.fast_weights": torch.full((2, 2), 3.0), "memory.0.front_end.mean": torch.ones(5)}
    assert list(learned_tensors(tensors)) == ["memory.0.fast_weights"]
    assert norm_of(learned_tensors(tensors)) == 6.0 and norm_of({}) == 0 and not math.isnan(norm_of({}))
