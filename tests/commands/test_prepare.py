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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--kind", "dailytalk"],
            "a.wav: no word times: there is no a.json beside it. Make it with hf-moshi-ttt annotate",
        ),
        (
            ["--kind", "librilight", "--output", "{}/mine/a.wav"],
            "a.wav: a file, but the codes are written into a folder",
        ),
    ],
)
def test_what_is_missing_or_in_the_way_is_named(
    more: list[str], message: str, tmp_path: Path, codec_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    soundfile.write(tmp_path / "mine" / "a.wav", np.stack([chirps_S(1.0, seed) for seed in (0, 1)], 1), 24_000)
    words = ["prepare", str(tmp_path / "mine"), "--codec", codec_path, "--output", str(tmp_path / "codes")]
    assert main([*words, *(word.format(tmp_path) for word in more)]) == 1
    assert message in capsys.readouterr().err


def write_talk(folder: Path, name: str, *words: list[object]) -> None:
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / f"{name}.wav", np.stack([chirps_S(2.0, seed) for seed in (0, 1)], 1), 24_000)
    (folder / f"{name}.json").write_text(json.dumps({"alignments": words}))


def test_words_in_milliseconds_make_a_bad_file(
    tmp_path: Path, codec_path: str, tokenizer_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused, or skipped and named where bad files are allowed."""
    write_talk(tmp_path / "mine", "good", ["a", [0.25, 0.5], "SPEAKER_MAIN"])
    write_talk(tmp_path / "mine", "odd", ["a", [480, 800], "SPEAKER_MAIN"], ["b", [900, 950], "SPEAKER_MAIN"])
    words = ["prepare", str(tmp_path / "mine"), "--codec", codec_path, "--output", str(tmp_path / "codes")]
    words += ["--text-tokenizer", tokenizer_path, "--device", "cpu"]
    assert main(words) == 1
    reason = "odd.json: 'a' starts at 480 s, but the audio is 2 s long (2 of 2 words start after its end). Times are"
    assert reason in capsys.readouterr().err
    assert main([*words, "--max-bad-fraction", "0.5"]) == 0
    codes, provenance = load_codes(str(tmp_path / "codes"))
    assert list(codes["path"]) == ["good.wav"] and reason in provenance.left_out[str(tmp_path / "mine" / "odd.wav")]


def test_text_that_does_not_fit_is_counted(
    tmp_path: Path, codec_path: str, tokenizer_path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_talk(tmp_path / "mine", "late", ["a", [0.25, 0.5], "SPEAKER_MAIN"], ["bcd", [1.9, 2.0], "SPEAKER_MAIN"])
    words = ["prepare", str(tmp_path / "mine"), "--codec", codec_path, "--output", str(tmp_path / "codes")]
    assert main([*words, "--text-tokenizer", tokenizer_path, "--device", "cpu"]) == 0
    assert "\n2 text tokens did not fit before the end of their recordings\n" in capsys.readouterr().out
