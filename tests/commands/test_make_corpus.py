"""The corpus's command asks for what is given; tests/demo/test_corpus.py runs it."""

from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.demo import corpus


def test_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(corpus, "make_corpus", lambda *given: asked.extend(given) or {"splits": {}, "stages": {}})
    assert main(["make-corpus", str(tmp_path), "--train-hours", "0.5", "--conversations", "3"]) == 0
    assert asked == [tmp_path, corpus.CorpusRequest(0.5, 60.0, 3, 0), 2]
    assert '"splits"' in capsys.readouterr().out
