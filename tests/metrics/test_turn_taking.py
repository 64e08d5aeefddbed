"""The `evaluate` module loads from its folder, offline, takes arrays or paths, and is what a Space needs."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate
import numpy as np
import pytest
import soundfile
import yaml

import hf_moshi_ttt
from hf_moshi_ttt.evaluation.turn_taking import hear, turn_taking_numbers

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


def test_the_card_is_a_spaces(metric: Any) -> None:
    card = (FOLDER / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert (facts["sdk"], facts["tags"]) == ("gradio", ["evaluate", "metric"])
    assert facts["app_file"] == "app.py"
    assert (FOLDER / "requirements.txt").read_text().split() == ["evaluate", "hf_moshi_ttt"]
    for section in ("Metric Description", "How to Use", "Inputs", "Output Values", "Limitations and Bias", "Citation"):
        assert re.search(rf"^#+ {section}$", body, re.M), section


def test_the_page_takes_two_recordings(metric: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: lambda **options: SimpleNamespace(**options) for name in ("Audio", "JSON", "Interface")}
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(**parts))
    page = runpy.run_path(str(FOLDER / "app.py"))["page"](metric)
    noise = 0.1 * np.random.default_rng(0).standard_normal(72_000).astype(np.float32)
    user, model = np.zeros(240_000, np.float32), np.zeros(240_000, np.float32)
    user[24_000:96_000], model[108_000:180_000] = noise, noise
    for name, samples in (("user.wav", user), ("model.wav", model)):
        soundfile.write(tmp_path / name, samples, 24_000)
    assert page.fn(str(tmp_path / "user.wav"), str(tmp_path / "model.wav"))["response_rate"] == 1.0
    assert [field.type for field in page.inputs] == ["filepath"] * 2 and page.article.startswith("\n# Metric Card")


def test_the_cards_block_runs(metric: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    block = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
    monkeypatch.setattr(evaluate, "load", lambda name: metric if name == "metrics/turn_taking" else None)
    assert block is not None
    exec(block[1], {})
