"""A model and its baselines in one results dict: the right model in the right way, paired, and strict names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.data.codes import Provenance
from hf_moshi_ttt.evaluation.baselines import Baseline, Comparison, parse_baselines, split_name
from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.evaluation.recordings import Recording
from hf_moshi_ttt.evaluation.results_file import made_with, validate

MakeModel = Callable[..., Any]
PROVENANCE = Provenance("kyutai/mimi", "mimi", 32, [1] * 8, None, 0, {})
SETTINGS = LongContextSettings(positions_frames=[40], bin_frames=10, check_frames=8, memory_recordings=1)
RECORDINGS = [
    Recording(f"book {i}", np.random.default_rng(i).integers(0, 32, (8, length)))
    for i, length in enumerate((70, 55, 90, 40))
]


def test_baselines_are_read() -> None:
    assert parse_baselines("") == []
    assert parse_baselines("frozen=kyutai/moshiko,window_only,mine=runs/a=b") == [
        Baseline("frozen", "kyutai/moshiko"), Baseline("window_only"), Baseline("mine", "runs/a=b"),
    ]  # fmt: skip
    assert parse_baselines("static") == [Baseline("static")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "frozen",
            "'frozen': it needs the path of a checkpoint, frozen=PATH. Without one there are window_only, no_reset, st",
        ),
        ("static=", "'static=': it needs the path of a checkpoint"),
        ("mine", "'mine': it needs the path of a checkpoint"),
        ("window_only=runs/a", "window_only is a way of running the model itself and takes no path"),
        ("no_reset,no_reset", "a name stands there twice"),
    ],
)
def test_other_baselines_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_baselines(text)


@pytest.fixture
def models(make_model: MakeModel) -> dict[str, Any]:
    """By path."""
    return {
        "ttt": make_model(),
        "plain": make_model(ttt=None, sliding_window=20),
        "static": make_model(ttt={"learner": "static"}),
        "delta": make_model(ttt={"learner": "gated_delta"}),
    }


def compared(models: dict[str, Any], baselines: str, **options: Any) -> dict[str, Any]:
    comparison = Comparison(models.__getitem__, RECORDINGS, SETTINGS, PROVENANCE, **options)
    return comparison.run("main", "ttt", parse_baselines(baselines))


def test_all_baselines_in_one_run(models: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    found = compared(
        models, "frozen=plain,window_only,static=static,no_reset,gated_delta=delta", keep_in=tmp_path, say=said.append
    )
    names = ["window_only", "no_reset", "frozen", "static", "gated_delta"]
    assert list(found["models"]) == ["main", *names] and sorted(found["comparisons"]) == sorted(names)
    ways = {name: (one["path"], one["run"]["memory"]) for name, one in found["models"].items()}
    assert ways["main"] == ("ttt", "on") and ways["window_only"] == ("ttt", "off")
    assert ways["no_reset"] == ("ttt", "no_reset") and ways["gated_delta"] == ("delta", "on")
    assert found["comparisons"]["frozen"]["window_frames"] == 20  # the longer one
    codes = [recording.codes for recording in RECORDINGS]
    plain = evaluate_long_context(models["plain"], codes, SETTINGS, silence_codes=[1] * 8, progress=False)
    own = evaluate_long_context(models["ttt"], codes, SETTINGS, silence_codes=[1] * 8, progress=False)
    beyond = [np.nanmean((a - b)[20 : len(a) // 10 * 10]) for a, b in zip(own.headlines, plain.headlines, strict=True)]
    assert found["comparisons"]["frozen"]["beyond_window"]["value"] == pytest.approx(np.mean(beyond), abs=2e-3)
    assert found["memory"]["layers"] == [1] and len(found["memory"]["x"]) == 9
    lines = [line for line in said if " against " in line]
    assert [line.split(":")[0] for line in lines] == [
        f"main against {name}" for name in ("frozen", "window_only", "static", "no_reset", "gated_delta")
    ]
    results = {
        "schema": 2, "made_with": made_with(torch.device("cpu")), "settings": {}, "codes": "x", "codec": "x",
        "recordings": [recording.description() for recording in RECORDINGS], **found,
    }  # fmt: skip
    validate(results)


def test_a_finding_is_said_once_and_kept_for_every_model(models: dict[str, Any]) -> None:
    said: list[str] = []
    found = compared(models, "window_only", say=said.append)
    assert len([line for line in said if "recordings of [8] rows" in line]) == 1
    assert all(any("rows" in one["what"] for one in m["findings"]) for m in found["models"].values())


@pytest.mark.parametrize(
    ("baselines", "message"),
    [
        ("static=delta", "static=delta: it must have ttt.learner='static', but it has ttt.learner='gated_delta'"),
        ("gated_delta=ttt", "it must have ttt.learner='gated_delta', but it has ttt.learner='ttt'"),
        ("frozen=static", "frozen=static: it must have no TTT layers, but it has ttt.learner='static'"),
        ("main=plain", "The model and a baseline are both called 'main'"),
    ],
)
def test_a_baseline_is_what_its_name_says(models: dict[str, Any], baselines: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared(models, baselines, say=lambda _: None)


def test_a_planted_difference_gives_its_verdict(models: dict[str, Any]) -> None:
    """A memory that makes every code less likely, and one that changes nothing."""
    worse, model = models["ttt"], models["plain"]
    model.load_state_dict({name: weight for name, weight in worse.state_dict().items() if name in model.state_dict()})
    with torch.no_grad():
        for head in worse.depth_decoder.lm_heads:
            head.weight.mul_(20)
    said: list[str] = []
    found = compared(models, "mine=plain", say=said.append)
    assert found["comparisons"]["mine"]["verdict"].startswith("this model instead of mine hurts: +")
    comparison = Comparison(models.__getitem__, RECORDINGS, SETTINGS, PROVENANCE, say=said.append)
    same = comparison.run("plain", "plain", [Baseline("window_only"), Baseline("no_reset")])
    assert all(one["verdict"].startswith("cannot be told: ") for one in same["comparisons"].values())
    assert "memory" not in same


def test_paths_with_equals_signs_and_commas_stay_whole(tmp_path: Path) -> None:
    folder = tmp_path / "lr=1e-3,seed=0"
    folder.mkdir()
    assert split_name(str(folder)) == (None, str(folder))
    assert split_name(f"mine={folder}") == ("mine", str(folder))
    assert split_name("mine=a/b=c") == ("mine", "a/b=c")
    assert split_name("runs/lr=1e-3") == (None, "runs/lr=1e-3")
    assert parse_baselines(f"window_only,other={folder},no_reset") == [
        Baseline("window_only"), Baseline("other", str(folder)), Baseline("no_reset"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=f"compare '{folder}': give the model a name, as in NAME={folder}"):
        parse_baselines(str(folder))
