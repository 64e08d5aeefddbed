"""The script trains, writes one JSON, and draws from it."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils import logging

SCRIPT = Path(__file__).parents[2] / "scripts" / "recall.py"


@pytest.fixture(autouse=True)
def same_verbosity() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


def test_a_short_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--task", "motif", "--arms", "static,ttt+base_lr=0.5", "--steps", "2", "--jobs", "1"]
    settings = ["--output", str(tmp_path), "hidden_size=32", "test_rows=2", "batch_size=2"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, *settings])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    results = json.loads((tmp_path / "recall.json").read_text())
    assert [run["arm"] for run in results["runs"]] == ["static", "ttt+base_lr=0.5"]
    assert (tmp_path / "recall.png").stat().st_size > 5_000
    shown = capsys.readouterr().out
    assert "ttt+base_lr=0.5" in shown and str(tmp_path / "recall.json") in shown
