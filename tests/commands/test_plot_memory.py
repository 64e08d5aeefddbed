"""What the memories do by position is written and drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import main

from ..conftest import save_codes


def test_recordings_are_streamed(
    make_model: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model().save_pretrained(tmp_path / "model")
    codes = save_codes(tmp_path / "codes", [24, 24])
    words = ["plot-memory", str(tmp_path / "model"), "--codes", str(codes), "--output", str(tmp_path / "out")]
    assert main([*words, "--recordings", "1", "--bin-frames", "8"]) == 0
    report = json.loads((tmp_path / "out" / "memory.json").read_text())
    assert len(report["x"]) == 3 and (tmp_path / "out" / "memory.png").is_file()
    assert f"{len(report['layers'])} layers at 3 points" in capsys.readouterr().out
