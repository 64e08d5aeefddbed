"""One command from a folder of anybody's audio, without an index, to codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.prepare import KINDS
from hf_moshi_ttt.data import corpora
from hf_moshi_ttt.data.codes import load_codes

from ..conftest import chirps_S


def test_a_folder_of_any_audio(tmp_path: Path, codec_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine" / "some" / "where"
    folder.mkdir(parents=True)
    samples = chirps_S(1.0, 0)
    soundfile.write(folder / "a.wav", samples[::3], 8_000)
    soundfile.write(folder / "b.FLAC", samples, 24_000, format="FLAC")
    soundfile.write(folder / "c.mp3", samples, 24_000)
    soundfile.write(folder / "d.ogg", np.stack([samples, samples], 1), 24_000)
    soundfile.write(folder / "e.opus", samples, 24_000, format="OGG", subtype="OPUS")
    (folder / "notes.txt").write_text("no audio")
    words = ["prepare", str(tmp_path / "mine"), "--codec", codec_path, "--output", str(tmp_path / "codes")]
    assert main([*words, "--device", "cpu", "--kind", "librilight"]) == 0
    assert capsys.readouterr().out.startswith(
        f"{tmp_path / 'mine'}: librilight (audio alone)\n5 recordings, 0.00 hours"
    )
    codes, provenance = load_codes(str(tmp_path / "codes"))
    assert [Path(path).stem for path in sorted(codes["path"])] == list("abcde") and provenance.codec == codec_path


def test_the_kinds_are_those_of_the_corpora() -> None:
    assert KINDS == corpora.KINDS


def test_files_left_out_at_the_scan_are_named(
    tmp_path: Path, codec_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the JSON and in the provenance, with their reasons."""
    folder = tmp_path / "mine"
    folder.mkdir()
    soundfile.write(folder / "a.wav", chirps_S(1.0, 0), 24_000)
    (folder / "b.mp3").touch()
    (folder / "c.wav").write_bytes(b"RIFF")
    words = ["prepare", str(folder), "--codec", codec_path, "--output", str(tmp_path / "codes"), "--json"]
    assert main([*words, "--device", "cpu", "--max-bad-fraction", "1"]) == 0
    left_out = json.loads(capsys.readouterr().out)["left_out"]
    assert left_out == load_codes(str(tmp_path / "codes"))[1].left_out
    assert [Path(path).name for path in left_out] == ["b.mp3", "c.wav"]
    assert left_out[str(folder / "b.mp3")] == f"{folder / 'b.mp3'}: empty, it has 0 bytes. Fetch or make it again."
