"""The verb asks for what is given; tests/demo/test_programmes.py makes it."""

from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.demo import programmes


def test_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []

    def make(*given: Any) -> dict[str, Any]:
        asked.extend(given)
        return {"splits": {"train": 1}}

    monkeypatch.setattr(programmes, "make_programmes", make)
    options = ["--train-hours", "2", "--spread", "0.05", "--no-rooms", "--voices", "2", "--num-proc", "3"]
    assert main(["make-programmes", str(tmp_path), *options]) == 0
    delivery = programmes.Delivery(spread=0.05, on_frames=False, rooms=False, voices=2)
    assert asked == [tmp_path, programmes.ProgrammesRequest(2.0, 60.0, 0, delivery), 3]
    assert '"splits"' in capsys.readouterr().out
