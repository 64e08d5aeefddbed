"""The `evaluate` module loads from its folder, offline, takes arrays or paths, and is what a Space needs."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate
import pytest
import soundfile

import hf_moshi_ttt
from hf_moshi_ttt.evaluation.turn_taking import hear, turn_taking_numbers

from ..fixtures.metric_cards import require_card_runs
from ..fixtures.planted_conversations import planted

FOLDER = Path(hf_moshi_ttt.METRIC_TURN_TAKING)


@pytest.fixture(scope="module")
def metric(evaluate_cache: str) -> Any:
    return evaluate.load(str(FOLDER), cache_dir=evaluate_cache)


def test_arrays_and_paths_give_the_functions_numbers(metric: Any, tmp_path: Path) -> None:
    talks = [planted(seed, ["answered", "pause taken"]).samples() for seed in range(2)]
    expected = turn_taking_numbers([hear(*talk) for talk in talks])
    users, models = zip(*talks, strict=True)
    assert metric.compute(user=list(users), model=list(models)) == expected
    for place, sides in enumerate(talks):
        for side, samples in zip(("user", "model"), sides, strict=True):
            soundfile.write(tmp_path / f"{side}{place}.wav", samples, 24_000, subtype="FLOAT")
    paths = {side: [str(tmp_path / f"{side}{place}.wav") for place in range(2)] for side in ("user", "model")}
    assert metric.compute(**paths) == expected
    assert expected["response_rate"] == 0.5 and expected["pause_takeover_rate_count"] == 2


def test_its_card_runs_and_names_its_app(monkeypatch: pytest.MonkeyPatch, metric: Any) -> None:
    require_card_runs(FOLDER, metric, monkeypatch)


def test_its_space_measures_two_files(monkeypatch: pytest.MonkeyPatch, metric: Any, tmp_path: Path) -> None:
    """A stand-in takes gradio's part."""
    parts = {name: lambda *_, **options: SimpleNamespace(**options) for name in ("Audio", "Radio", "JSON", "Interface")}
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(**parts))
    page = runpy.run_path(str(FOLDER / "app.py"))["interface"](metric)
    for side, samples in zip(("user", "model"), planted(0, ["answered"]).samples(), strict=True):
        soundfile.write(tmp_path / f"{side}.wav", samples, 24_000)
    assert page.fn(str(tmp_path / "user.wav"), str(tmp_path / "model.wav"), "energy")["response_rate"] == 1.0
    assert page.article.strip().startswith("# Metric Card for Turn-taking")
