"""A recording is continued into a wav with a report beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hf_moshi_ttt.commands.console import main

from ..conftest import save_codes


@pytest.fixture
def model(make_model: Callable[..., Any], codec_path: str, tmp_path: Path) -> str:
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_encoded_recordings(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, output = save_codes(tmp_path / "codes", [30, 40]), tmp_path / "deep" / "out.wav"
    words = ["generate", model, "--codes", str(codes), "--recording", "1", "--output", str(output)]
    assert main([*words, "--prompt-sec", "1.6", "--new-sec", "0.4"]) == 0
    samples, rate = soundfile.read(output)
    assert rate == 24_000 and len(samples) == 5 * 1920
    report = json.loads(output.with_suffix(".json").read_text())
    assert report["prompt"] == "1.flac" and report["frames_per_second"] > 0
    assert "the model was trained without text" in capsys.readouterr().out
