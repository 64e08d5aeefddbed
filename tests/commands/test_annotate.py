"""What whisper-timestamped heard becomes word times beside the audio."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.commands.console import main


def test_it_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "talk.wav", np.zeros((24_000, 2)), 24_000)
    heard = {"segments": [{"words": [{"text": " Hello", "start": 0.1, "end": 0.5, "confidence": 0.9}]}]}
    (tmp_path / "talk.wav.words.json").write_text(json.dumps(heard))
    assert main(["annotate", str(tmp_path)]) == 0
    assert main(["annotate", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said == "1 files annotated, 0 had word times already\n0 files annotated, 1 had word times already\n"
    assert json.loads((tmp_path / "talk.json").read_text())["alignments"][0][0] == "Hello"
