"""The index of a folder, and what was left out of it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.commands.console import main


def test_it_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, snr in (("a", None), ("b", "4.5"), ("c", "1")):
        soundfile.write(tmp_path / f"{name}.wav", np.full(8000, 0.1), 8000)
        if snr is not None:
            (tmp_path / f"{name}.json").write_text(f'{{"snr": {snr}}}')
    assert main(["index", str(tmp_path), "--output", str(tmp_path / "i.jsonl"), "--min-snr", "3"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"1 files, 0.00 hours, indexed in {tmp_path / 'i.jsonl'}",
        "2 files left out: without an snr of at least 3",
    ]
    assert main(["index", str(tmp_path), "--output", str(tmp_path / "i.jsonl"), "--min-duration-sec", "-1"]) == 2
    assert "min_duration_sec=-1.0" in capsys.readouterr().err
