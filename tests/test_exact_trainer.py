"""Law 7: a run that was killed anywhere, and goes on, equals one never stopped; nothing half-written is picked."""

import os
import random
from pathlib import Path
from typing import Any

import pytest

from .conftest import save_codes
from .training_fixture import log_of, outcome, tiny_settings, train

LANES: dict[str, Any] = {"order": "lanes", "config": {"ttt": {"persistent_states": True}}}
ACCUMULATED: dict[str, Any] = {"gradient_accumulation_steps": 3, "logging_steps": 3}


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """24 segments of 11 frames, so that runs of two rows cross epochs and split mini-batches of four frames."""
    return save_codes(tmp_path / "codes", [100, 61, 44, 37, 11])


@pytest.mark.parametrize("mode", [LANES, ACCUMULATED], ids=["lanes", "accumulated"])
def test_a_run_that_is_killed_anywhere_equals_one_never_stopped(tmp_path: Path, codes: Path, mode: dict) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    draw = random.Random(seed)
    whole = tiny_settings(tmp_path / "whole", codes, **mode)
    assert train({**whole, "save_strategy": "no"}) == [0]
    killed, kills = tiny_settings(tmp_path / "killed", codes, **mode), []
    for _ in range(4):
        kills.append((draw.randrange(2, 40), draw.random() * 0.03))
        print(f"seed {seed}: killed after (writes, seconds) {kills}")
        train(killed, kill=kills[-1])
    assert train(killed) == [0], log_of(tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
