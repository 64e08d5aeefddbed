"""A run's curves are drawn from what it logged."""

import json
from pathlib import Path

import pytest

from hf_moshi_ttt.commands.console import main


def test_a_run_that_is_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [{"step": step, "audio_loss": 5.0 - step, "text_loss": 1.0, "loss": 6.0} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert main(["plot", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'curves.png'}\n" and (tmp_path / "curves.png").is_file()
    assert main(["plot", str(tmp_path / "nothing")]) == 1
    assert "no metrics.jsonl" in capsys.readouterr().err
