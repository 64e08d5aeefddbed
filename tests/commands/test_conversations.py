"""Conversations must be long enough for a prompt and a window; the rest runs in docs/evaluation.md."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import main

from ..conftest import save_codes


def test_too_few_conversations(
    make_model: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model().save_pretrained(tmp_path / "model")
    codes = save_codes(tmp_path / "codes", [30, 5], rows=17)
    words = ["conversations", "--model", str(tmp_path / "model"), "--codes", str(codes), "--output", str(tmp_path)]
    assert main([*words, "--device", "cpu", "--prompt-sec", "1", "--window-sec", "1", "--conversations", "2"]) == 1
    assert "1 conversations have a prompt and a window, 2 wanted." in capsys.readouterr().err
