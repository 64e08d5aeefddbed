"""The verb trains, writes one JSON, and draws from it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils import logging

from hf_moshi_ttt.commands import recall
from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.training import recall_setup, recall_size


@pytest.fixture(autouse=True)
def same_verbosity() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


def test_a_short_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "motif", "--arms", "static,ttt+base_lr=0.5", "--steps", "2", "--jobs", "1"]
    settings = ["--output", str(tmp_path), "hidden_size=32", "test_rows=2", "batch_size=2"]
    assert main(["recall", *arguments, *settings]) == 0
    results = json.loads((tmp_path / "recall.json").read_text())
    assert [run["arm"] for run in results["runs"]] == ["static", "ttt+base_lr=0.5"]
    assert (tmp_path / "recall.png").stat().st_size > 5_000
    shown = capsys.readouterr().out
    assert "ttt+base_lr=0.5" in shown and str(tmp_path / "recall.json") in shown


def test_tasks_and_arms_are_those_of_the_runs() -> None:
    assert recall_size.TASKS == recall.TASKS and tuple(recall_setup.ARMS) == recall.ARMS
    assert recall_size.SPEECH_TASKS == recall.SPEECH_TASKS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=[]"], "but what can be set is: steps (int)"),
        (["steps=0"], "steps=0, but it must be 1 or more"),
        (["--arms", "static, ttt"], "arm ' ttt', but the arms are full"),
        (["--arms", "ttt+base_lr=fast"], "base_lr='fast', but it must be a number"),
        (["--steps", "2", "steps=3"], "--steps 2 and steps=3: give one of them"),
        (["--variants", "a"], "only the task 'variants' has returns in other forms"),
    ],
)
def test_wrong_settings_are_errors_of_usage(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recall", "--task", "motif", "--output", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
