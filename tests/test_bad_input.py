"""A corpus of every kind of damage: each file is left out with its reason, and too many of them stop the run."""

import json
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.data.corpora import load_dailytalk, load_librilight
from hf_moshi_ttt.data.encoding import EncodeOptions, encode_corpus
from hf_moshi_ttt.data.index import IndexOptions, build_index

from .conftest import chirps_S

SPEECH = chirps_S(2.0, 0)
Damaged = tuple[Path, dict[str, str]]


def good(path: Path, channels: int = 2) -> Path:
    soundfile.write(path, np.stack([SPEECH] * channels, axis=1), 24_000)
    return path


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def damage_audio(folder: Path) -> dict[str, str]:
    """Writes damaged audio; returns what must be said of each."""
    for suffix in ("flac", "wav", "ogg"):
        cut(good(folder / f"truncated_{suffix}.{suffix}"), 0.6)
        (folder / f"text_{suffix}.{suffix}").write_text("no audio at all\n" * 50)
        (folder / f"empty_{suffix}.{suffix}").touch()
        soundfile.write(folder / f"no_samples_{suffix}.{suffix}", np.zeros((0, 2)), 24_000)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        samples = np.full((48_000, 2), 0.1)
        samples[9_999, 1] = value
        soundfile.write(folder / f"{name}.wav", samples, 24_000, "FLOAT")
    for suffix in ("flac", "wav", "ogg"):
        good(folder / f"three_{suffix}.{suffix}", channels=3)
    header = bytearray(good(folder / "header.flac").read_bytes())
    header[8:26] = bytes(18)  # the sizes of blocks and frames, the rate, the channels and the number of samples
    (folder / "header.flac").write_bytes(header)
    wav = bytearray(good(folder / "header_of.wav").read_bytes())
    wav[20:24] = struct.pack("<HH", 77, 0)  # a format that does not exist, of no channel
    (folder / "header_of.wav").write_bytes(wav)
    (folder / "gone.flac").symlink_to(folder / "nowhere.flac")
    unreadable = "damaged or not an audio file|not a readable audio file"
    return {
        "truncated_flac.flac": "damaged", "truncated_wav.wav": "cut off", "truncated_ogg.ogg": "cut off",
        **dict.fromkeys([f"text_{suffix}.{suffix}" for suffix in ("flac", "wav", "ogg")], unreadable),
        **dict.fromkeys([f"empty_{suffix}.{suffix}" for suffix in ("flac", "wav", "ogg")], "empty, it has 0 bytes"),
        **dict.fromkeys([f"no_samples_{s}.{s}" for s in ("flac", "wav", "ogg")], f"no samples|0 bytes|{unreadable}"),
        "nan.wav": "NaN or infinite", "inf.wav": "NaN or infinite",
        **dict.fromkeys([f"three_{suffix}.{suffix}" for suffix in ("flac", "wav", "ogg")], "3 channels, but"),
        "header.flac": unreadable, "header_of.wav": unreadable, "gone.flac": "missing",
    }  # fmt: skip


WORD_DAMAGE = {
    "not_json": (b"{", "not JSON"),
    "truncated_json": (b'{"alignments": [["hi", [0.1, 0.2], "SPEAKER', "not JSON"),
    "latin": ('{"alignments": [["é", [0, 1], "A"]]}'.encode("latin-1"), "not UTF-8"),
    "other_form": (b'{"words": []}', "expected"),
    "short_word": (b'{"alignments": [["hi", [0.1]]]}', "expected"),
    "before": (b'{"alignments": [["hi", [-0.9, 0.1], "A"]]}', "is no span of time"),
    "nan_time": (b'{"alignments": [["hi", [NaN, 0.1], "A"]]}', "is no span of time"),
    "milliseconds": (b'{"alignments": [["hi", [480, 800], "A"]]}', "are these milliseconds"),
    "unsorted": (b'{"alignments": [["c", [2, 2], "A"], ["b", [1, 1.1], "A"], ["a", [0, 0.1], "A"]]}', "not in order"),
}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """A folder with ten good conversations and much damage, and what must be said of each damaged file."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    folder.mkdir()
    reasons = damage_audio(folder)
    for number in range(10):
        good(folder / f"good_{number}.wav")
    for name, (content, reason) in WORD_DAMAGE.items():
        good(folder / f"{name}.wav")
        (folder / f"{name}.json").write_bytes(content)
        reasons[f"{name}.wav"] = reason
    for path in list(folder.iterdir()):
        if path.suffix != ".json" and not path.with_suffix(".json").exists():
            path.with_suffix(".json").write_text('{"alignments": [["a", [0.1, 0.2], "SPEAKER_MAIN"]]}')
    good(folder / "no_words.wav")
    reasons["no_words.wav"] = "no word times: there is no no_words.json beside it"
    return folder, reasons


def require_reasons(found: dict[str, str], expected: dict[str, str]) -> None:
    by_name = {Path(path).name: reason for path, reason in found.items()}
    assert sorted(by_name) == sorted(expected)
    for name, pattern in expected.items():
        assert any(part in by_name[name] for part in pattern.split("|")), f"{name}: {by_name[name]}"


def test_the_index_reports_all_damaged_audio(damaged: Damaged, tmp_path: Path) -> None:
    """Of the JSON beside it, the index needs that it is JSON."""
    folder, reasons = damaged
    expected = {name: reason for name, reason in reasons.items() if Path(name).stem not in WORD_DAMAGE}
    expected |= dict.fromkeys(["not_json.wav", "truncated_json.wav", "latin.wav"], "not JSON|not UTF-8")
    expected["gone.flac"] = "outside of|missing"
    del expected["no_words.wav"]
    options = IndexOptions(check=True, max_bad_fraction=1.0)
    summary = build_index(folder, tmp_path / "i.jsonl", options, progress=False)
    require_reasons(summary.bad.reasons, expected)
    require_reasons(json.loads((tmp_path / "i.bad.json").read_text()), expected)
    assert summary.files == 10 + len(WORD_DAMAGE) - 3 + 1
    with pytest.raises(
        ValueError, match=rf"{len(expected)} of {summary.total} files cannot be used, more than the 1\.0%"
    ):
        build_index(folder, tmp_path / "i.jsonl", IndexOptions(check=True), progress=False)


def write_index(folder: Path, names: list[str]) -> Path:
    lines = [json.dumps({"path": name, "duration": 2.0}).encode() for name in names]
    (folder / "all.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder / "all.jsonl"


def test_loading_and_encoding_report_everything_else(
    damaged: Damaged, tmp_path: Path, codec_path: str, tokenizer_path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    folder, reasons = damaged
    index = write_index(folder, [*reasons, *(f"good_{number}.wav" for number in range(10))])
    corpus = load_dailytalk(index, max_bad_fraction=0.9)
    at_load = {name for name in reasons if name.split(".")[0] in WORD_DAMAGE} | {"no_words.wav", "gone.flac"}
    left = {Path(path).name for path in corpus["path"]}
    assert left == (set(reasons) | {f"good_{number}.wav" for number in range(10)}) - at_load
    for name in at_load:
        assert f"{name}'" in caplog.text
    options = EncodeOptions("cpu", cache_dir=tmp_path / "cache", max_bad_fraction=0.9)
    codes = encode_corpus(corpus, codec_path, tmp_path / "codes", tokenizer_path, options)
    assert sorted(codes["path"]) == [f"good_{number}.wav" for number in range(10)]
    left_out = json.loads((tmp_path / "codes" / "provenance.json").read_text())["left_out"]
    require_reasons(left_out, {name: reason for name, reason in reasons.items() if name not in at_load})
    with pytest.raises(ValueError, match=rf"{len(at_load)} of {len(reasons) + 10} files cannot be used, more than"):
        load_dailytalk(index)


def test_one_bad_file_in_a_hundred_is_allowed_at_every_stage(damaged: Damaged, tmp_path: Path) -> None:
    """For each kind of damage by itself: 99 good files and the bad one are indexed or loaded, 98 stop."""
    folder, reasons = damaged
    for name, reason in reasons.items():
        if Path(name).stem not in WORD_DAMAGE and name not in ("gone.flac", "no_words.wav"):
            continue
        names = [f"good_{number % 10}.wav" for number in range(99)]
        assert len(load_dailytalk(write_index(folder, [*names, name]))) == 99
        with pytest.raises(ValueError, match=rf"1 of 99 files cannot be used(.|\n)*({reason})"):
            load_dailytalk(write_index(folder, [*names[1:], name]))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"path": "good_0.wav", "dur', "expected"),
        (b'{"path": "caf\xe9.wav", "duration": 1}', "in UTF-8"),
        (b'{"path": "/etc/hostname.wav", "duration": 1}', "outside of"),
        (b'{"path": "../secret.wav", "duration": 1}', "outside of"),
        (b'{"path": "good_0.wav", "duration": 0}', "duration above 0"),
        (b"\x00\x01", "expected"),
        (b'{"path": "good_0.wav", "duration": 2, "snr": "n/a"}', "snr='n/a', but it must be a number"),
        (b'{"path": "good_0.wav", "duration": 2, "speaker": [9]}', "speaker=[9], but it must be a text"),
    ],
    ids=str,
)
def test_damaged_lines_of_an_index_are_counted(
    damaged: Damaged, line: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = damaged
    good(folder.parent / "secret.wav")
    index = write_index(folder, [f"good_{number % 10}.wav" for number in range(99)])
    index.write_bytes(index.read_bytes() + line + b"\n")
    assert len(load_librilight(index)) == 99
    assert reason in caplog.text and "all.jsonl:100" in caplog.text
    index.write_bytes(b"\n".join(index.read_bytes().split(b"\n")[1:]))
    with pytest.raises(ValueError, match=rf"1 of 99 files cannot be used(.|\n)*all\.jsonl:99: .*{re.escape(reason)}"):
        load_librilight(index)


def test_a_folder_without_an_index_skips_what_it_cannot_read(damaged: Damaged, tmp_path: Path) -> None:
    folder, reasons = damaged
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("*.jsonl"))
    corpus = load_dailytalk(copy, max_bad_fraction=0.9)
    assert {f"good_{number}.wav" for number in range(10)} <= set(corpus["name"])
    assert not set(corpus["name"]) & {
        "text_flac.flac",
        "empty_wav.wav",
        "no_samples_flac.flac",
        "three_ogg.ogg",
        "gone.flac",
        "unsorted.wav",
    }
