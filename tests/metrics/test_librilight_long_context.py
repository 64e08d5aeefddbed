"""The `evaluate` module loads from its folder, offline, and gives the numbers of the function underneath."""

import json
import runpy
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

from hf_moshi_ttt.evaluation.loss_curve import long_context_numbers
from hf_moshi_ttt.evaluation.metric_widget import compute_from_text

from ..evaluation.test_loss_curve import planted
from ..fixtures.metric_cards import require_card_runs

FOLDER = Path(__file__).parents[2] / "metrics" / "librilight_long_context"


@pytest.fixture(scope="module")
def metric(evaluate_cache: str) -> Any:
    return evaluate.load(str(FOLDER), cache_dir=evaluate_cache)


def test_a_planted_slope_is_found_with_its_interval(metric: Any) -> None:
    losses = planted(0, slope=-0.1)
    found = metric.compute(losses=losses, window=300, bin_frames=100, positions_frames=[500, 5000])
    low, high = found["librilight_slope_interval"]
    assert low < -0.1 < high < 0 and found["librilight_samples"] == 30
    assert "librilight_loss_500" in found and "librilight_loss_5k" not in found
    expected = long_context_numbers(losses, 300, 100, [500, 5000])
    assert set(found) == set(expected)
    assert all(np.allclose(found[key], expected[key], atol=1e-5) for key in expected)


def test_missing_predictions_stay_missing(metric: Any) -> None:
    losses = [np.array([1.0, 1.0, 3.0, np.nan]), np.array([2.0, 2.0])]
    found = metric.compute(losses=losses, window=0, bin_frames=1, positions_frames=[2, 3])
    assert found["librilight_loss_2"] == 3.0 and "librilight_loss_3" not in found


def test_batches_are_gathered(metric: Any) -> None:
    for losses in planted(1, slope=0.0, recordings=4):
        metric.add(losses=losses)
    assert metric.compute(window=300)["librilight_samples"] == 4


def test_its_space_computes_its_example(metric: Any) -> None:
    app = runpy.run_path(str(FOLDER / "app.py"))
    found = compute_from_text(metric, [json.dumps(value) for value in app["EXAMPLE"]], json.dumps(app["SETTINGS"]))
    assert found["librilight_slope"] < 0 and found["librilight_samples"] == 2


def test_its_card_runs_and_names_its_app(monkeypatch: pytest.MonkeyPatch, metric: Any) -> None:
    require_card_runs(FOLDER, metric, monkeypatch)
