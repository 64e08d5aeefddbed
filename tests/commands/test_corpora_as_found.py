"""Corpora as the ecosystem has them, each from raw files to codes by the commands that docs/data.md counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.data.codes import load_codes

from ..conftest import chirps_S

Made = tuple[list[list[str]], int, int]  # the words of each command, recordings, streams of each


def write(path: Path, channels: int = 1, rate_hz: int = 12_000, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = chirps_S(1.0, len(path.name))[:: 24_000 // rate_hz]
    soundfile.write(path, np.stack([samples] * channels, 1), rate_hz, **options)


def librispeech(root: Path) -> Made:
    for name in ("84/121123/84-121123-0000", "84/121123/84-121123-0001", "174/50561/174-50561-0000"):
        write(root / "LibriSpeech" / "dev-clean" / f"{name}.flac")
    (root / "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt").write_text("84-121123-0000 GO DO YOU HEAR\n")
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("; comments\n")
    return [["prepare", str(root / "LibriSpeech")]], 3, 8


def mls(root: Path) -> Made:
    for name in ("4800/10003/4800_10003_000000", "9104/11069/9104_11069_000001"):
        write(root / "mls_english_opus/dev/audio" / f"{name}.opus", rate_hz=24_000, format="OGG", subtype="OPUS")
    (root / "mls_english_opus/dev/transcripts.txt").write_text("4800_10003_000000\tand so\n")
    return [["prepare", str(root / "mls_english_opus")]], 2, 8


def fisher(root: Path) -> Made:
    write(root / "audio/000/fe_03_00001.sph", 2, 8_000, format="NIST", subtype="ULAW")
    (root / "trans/000").mkdir(parents=True)
    (root / "trans/000/fe_03_00001.ctm").write_text("fe_03_00001 A 0.10 0.20 a\nfe_03_00001 B 0.40 0.20 b\n")
    annotate = ["annotate", str(root / "audio"), "--transcripts", str(root / "trans")]
    return [annotate, ["prepare", str(root / "audio"), "--text-tokenizer", "TOKENIZER"]], 1, 17


def audiofolder(root: Path) -> Made:
    write(root / "sounds/train/x.wav")
    (root / "sounds/train/metadata.csv").write_text("file_name,transcription\nx.wav,hello\n")
    return [["prepare", str(root / "sounds"), "--audio-column", "audio"]], 1, 8


def hub_dataset(root: Path) -> Made:
    """A repository of a dataset as `push_to_hub` makes it: parquet that holds the content of the files."""
    for name in "ab":
        write(root / f"{name}.flac")
    audio = [{"path": f"{name}.flac", "bytes": (root / f"{name}.flac").read_bytes()} for name in "ab"]
    dataset = Dataset.from_dict({"speech": audio, "speaker_id": [1, 2]}).cast_column("speech", Audio())
    (root / "hub/data").mkdir(parents=True)
    dataset.to_parquet(root / "hub/data/test-00000-of-00001.parquet")
    return [["prepare", str(root / "hub"), "--audio-column", "speech", "--split", "test"]], 2, 8


@pytest.mark.parametrize("make", [librispeech, mls, fisher, audiofolder, hub_dataset])
def test_from_raw_files_to_codes(
    make: Callable[[Path], Made],
    tmp_path: Path,
    codec_path: str,
    tokenizer_path: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands, recordings, streams = make(tmp_path)
    assert len(commands) == (2 if streams == 17 else 1)
    for words in commands[:-1]:
        assert main(words) == 0
    words = [tokenizer_path if word == "TOKENIZER" else word for word in commands[-1]]
    capsys.readouterr()
    output = tmp_path / "codes"
    assert main([*words, "--codec", codec_path, "--output", str(output), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    codes, _ = load_codes(str(output))
    assert (found["recordings"], len(codes), found["left_out"]) == (recordings, recordings, {})
    assert {row["codes"].shape for row in codes} == {(streams, 13)}
    assert all(row["speaker"] for row in codes) or make in (fisher, audiofolder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "train"], "--subset and --split are those of a dataset: name its column with --audio-column"),
        (["--audio-column", "audio", "--swap"], "--swap is for files, not for a dataset (--audio-column)"),
        (
            ["--audio-column", "audio", "--kind", "dailytalk"],
            "--kind dailytalk: conversations with word times are",
        ),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", str(tmp_path), "--output", str(tmp_path / "codes"), *words]) == 2
    assert message in capsys.readouterr().err
