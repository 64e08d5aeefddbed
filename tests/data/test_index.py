"""Indexes list corpora in order, with relative paths, in one step; bad files are counted, killed runs go on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.data import index as index_module
from hf_moshi_ttt.data.bad_files import BadFiles
from hf_moshi_ttt.data.index import IndexOptions, build_index, read_index, write_index

ROOT = Path(__file__).parents[2]


def write_tone(path: Path, duration_sec: float, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((int(duration_sec * 8000), channels), 0.1), 8000)


def entries_of(index: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Three chapters of two speakers, the JSON of one of them, and a text file."""
    root = tmp_path / "books"
    write_tone(root / "9" / "emma" / "02.flac", 0.25)
    write_tone(root / "9" / "emma" / "01.FLAC", 0.5)
    write_tone(root / "10" / "étude" / "01.wav", 1.0)
    sidecar = {"speaker": "nine", "book_meta": {"id": "1", "title": "Emma"}, "snr": 12.5, "voice_activity": [[0, 1]]}
    (root / "9" / "emma" / "02.json").write_text(json.dumps(sidecar))
    (root / "9" / "emma" / "notes.txt").write_text("no audio")
    return root


def test_every_audio_file_is_listed_once_in_the_order_of_paths(books: Path) -> None:
    summary = build_index(books, books / "i.jsonl", progress=False)
    assert entries_of(books / "i.jsonl") == [
        {"path": "10/étude/01.wav", "duration": 1.0, "speaker": "10", "book": "étude"},
        {"path": "9/emma/01.FLAC", "duration": 0.5, "speaker": "9", "book": "emma"},
        {"path": "9/emma/02.flac", "duration": 0.25, "speaker": "nine", "book": "emma", "title": "Emma", "snr": 12.5},
    ]
    assert (summary.files, summary.hours * 3600, summary.bad.reasons) == (3, 1.75, {})
    assert sorted(path.name for path in books.iterdir()) == ["10", "9", "i.jsonl"]


def test_bad_files_are_left_out_and_reported_beside_the_index(books: Path, tmp_path: Path) -> None:
    emma = books / "9" / "emma"
    (emma / "00.flac").write_bytes(b"")
    write_tone(emma / "03.wav", 0.0)
    write_tone(emma / "04.wav", 0.5, channels=3)
    (emma / "01.json").write_bytes(b'{"speaker": "\xff"}')
    (emma / "05.wav").symlink_to(tmp_path / "elsewhere.wav")
    (books / "linked").symlink_to(tmp_path)
    options = IndexOptions(max_bad_fraction=0.8)
    summary = build_index(books, tmp_path / "i.jsonl", options, progress=False)
    assert (summary.files, summary.total) == (2, 8)
    reasons = {Path(path).name: reason for path, reason in json.loads((tmp_path / "i.bad.json").read_text()).items()}
    assert list(reasons) == ["linked", "00.flac", "01.FLAC", "03.wav", "04.wav", "05.wav"]
    for name, reason in {
        "linked": "a linked folder, which is not entered", "00.flac": "empty, it has 0 bytes",
        "01.FLAC": "01.json: not UTF-8", "03.wav": "holds no samples",
        "04.wav": "3 channels, but 1 or 2 are understood", "05.wav": "outside of",
    }.items():  # fmt: skip
        assert reason in reasons[name]
    with pytest.raises(ValueError, match=r"6 of 8 files cannot be used(.|\n)*00\.flac"):
        build_index(books, tmp_path / "i.jsonl", progress=False)


def test_a_name_that_is_not_utf8_is_reported(books: Path, tmp_path: Path) -> None:
    (books / "9" / "emma" / "02.flac").rename(os.fsdecode(os.fsencode(books / "9" / "emma") + b"/caf\xe9.flac"))
    summary = build_index(books, tmp_path / "i.jsonl", IndexOptions(max_bad_fraction=0.5), progress=False)
    (name,) = json.loads((tmp_path / "i.bad.json").read_text())
    assert "caf\\udce9.flac" in name and summary.files == 2


def test_check_finds_damage_that_headers_do_not_show(books: Path, tmp_path: Path) -> None:
    path = books / "9" / "emma" / "03.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 48_000), 24_000)
    path.write_bytes(path.read_bytes()[:40_000])
    assert build_index(books, tmp_path / "i.jsonl", progress=False).files == 4
    options = IndexOptions(check=True, max_bad_fraction=0.5)
    summary = build_index(books, tmp_path / "i.jsonl", options, progress=False)
    ((name, reason),) = summary.bad.reasons.items()
    assert Path(name) == path and "damaged" in reason


@pytest.mark.parametrize(
    ("options", "kept", "reason"),
    [
        ({"min_duration_sec": 0.5}, ["10/étude/01.wav", "9/emma/01.FLAC"], "shorter than 0.5 s"),
        ({"max_duration_sec": 0.5}, ["9/emma/01.FLAC", "9/emma/02.flac"], "longer than 0.5 s"),
        ({"min_snr": 12}, ["9/emma/02.flac"], "without an snr of at least 12"),
        ({"speakers": frozenset(["9", "nine"])}, ["9/emma/01.FLAC", "9/emma/02.flac"], "by another speaker"),
    ],
)
def test_filters_count_what_they_leave_out(books: Path, options: dict[str, Any], kept: list[str], reason: str) -> None:
    summary = build_index(books, books / "i.jsonl", IndexOptions(**options), progress=False)
    assert [entry["path"] for entry in entries_of(books / "i.jsonl")] == kept
    assert summary.filtered == {reason: 3 - len(kept)}


def test_impossible_requests_are_refused(books: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="min_duration_sec=2 and max_duration_sec=1, but the first"):
        IndexOptions(min_duration_sec=2, max_duration_sec=1)
    with pytest.raises(ValueError, match="num_threads=0, but it must be at least 1"):
        IndexOptions(num_threads=0)
    with pytest.raises(ValueError, match=r"no file passes the filters: \{'longer than 0.1 s': 3\}"):
        build_index(books, tmp_path / "i.jsonl", IndexOptions(max_duration_sec=0.1), progress=False)
    (tmp_path / "without").mkdir()
    for name, reason in {"missing": "no such folder", "without": r"no usable audio \(\.flac, \.wav, \.ogg"}.items():
        with pytest.raises(ValueError, match=rf"{name}: {reason}"):
            build_index(tmp_path / name, tmp_path / "i.jsonl", progress=False)


def test_an_snr_that_is_no_number_passes_no_filter(books: Path, tmp_path: Path) -> None:
    for value in ("NaN", "Infinity", "true", '"20"', "null"):
        (books / "9" / "emma" / "02.json").write_text(f'{{"snr": {value}}}')
        summary = build_index(books, tmp_path / "i.jsonl", progress=False)
        assert summary.files == 3 and "snr" not in (tmp_path / "i.jsonl").read_text()
        with pytest.raises(ValueError, match=r"no file passes the filters: \{'without an snr of at least 10': 3\}"):
            build_index(books, tmp_path / "i.jsonl", IndexOptions(min_snr=10), progress=False)
    with pytest.raises(ValueError, match="min_snr=nan, but it must be a finite number"):
        IndexOptions(min_snr=float("nan"))


def test_reasons_are_named_when_nothing_is_left(books: Path, tmp_path: Path) -> None:
    """A folder of a linked folder, and one of files that cannot be used, whatever share may be bad."""
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "speaker").symlink_to(books)
    (tmp_path / "links" / "a.aac").touch()
    with pytest.raises(ValueError, match=r"no usable audio .* Left out: \{'\.aac is not read.*\n.*speaker: a linked"):
        build_index(tmp_path / "links", tmp_path / "i.jsonl", progress=False)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.wav").touch()
    with pytest.raises(ValueError, match=r"no file passes the filters: \{\}\.\n.*a\.wav: .*empty, it has 0 bytes"):
        build_index(tmp_path / "bad", tmp_path / "i.jsonl", IndexOptions(max_bad_fraction=1.0), progress=False)


def test_files_that_are_links_are_indexed_when_their_store_is_named(tmp_path: Path) -> None:
    """As in the Hub's cache: snapshots of links to blobs beside them."""
    snapshot, blobs = tmp_path / "snapshots" / "0123", tmp_path / "blobs"
    write_tone(blobs / "hash.flac", 0.5)
    (blobs / "words").write_text('{"snr": 20}')
    (snapshot / "9" / "emma").mkdir(parents=True)
    (snapshot / "9" / "emma" / "1.flac").symlink_to("../../../../blobs/hash.flac")
    with pytest.raises(ValueError, match=r"1\.flac: leads to .*hash\.flac, outside of .*; if that is meant, give"):
        build_index(snapshot, tmp_path / "i.jsonl", progress=False)
    build_index(snapshot, tmp_path / "i.jsonl", IndexOptions(data_dir=tmp_path), progress=False)
    assert entries_of(tmp_path / "i.jsonl")[0]["path"] == "snapshots/0123/9/emma/1.flac"
    assert len(read_index(tmp_path / "i.jsonl", BadFiles())) == 1
    (snapshot / "9" / "emma" / "1.json").symlink_to("../../../../../outside.json")
    (tmp_path.parent / "outside.json").write_text('{"snr": 20}')
    with pytest.raises(ValueError, match=r"1\.flac: leads to .*outside\.json, outside of"):
        build_index(snapshot, tmp_path / "i.jsonl", IndexOptions(data_dir=tmp_path), progress=False)


def test_labels_are_composed_whatever_form_names_have(tmp_path: Path) -> None:
    """macOS' decomposed names (NFD): paths stay as they are, speakers, books and titles are composed (NFC)."""
    decomposed = unicodedata.normalize("NFD", "José")
    write_tone(tmp_path / "books" / decomposed / decomposed / "1.wav", 0.5)
    options = IndexOptions(speakers=frozenset([decomposed]))
    build_index(tmp_path / "books", tmp_path / "i.jsonl", options, progress=False)
    (entry,) = entries_of(tmp_path / "i.jsonl")
    assert (entry["path"], entry["speaker"]) == (f"books/{decomposed}/{decomposed}/1.wav", "José")
    (read,) = read_index(tmp_path / "i.jsonl", BadFiles())
    assert read["book"] == "José" and Path(read["path"]).is_file()


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"\xef\xbb\xbf{0}\n{1}\n", ["0.wav", "1.wav"]),
        (b"{0}\n\xef\xbb\xbf{1}", ["0.wav", "1.wav"]),
        (b"\n{0}\r\n\r\n \t\n{1}\n\n\n", ["0.wav", "1.wav"]),
    ],
    ids=["mark at the start", "marks of joined files", "blank lines"],
)
def test_marks_and_blank_lines_of_an_index_are_skipped(tmp_path: Path, content: bytes, names: list[str]) -> None:
    for number in range(2):
        line = json.dumps({"path": f"{number}.wav", "duration": 1, "title": "a\u2028b"}, ensure_ascii=False)
        content = content.replace(b"{%d}" % number, line.encode())
    (tmp_path / "i.jsonl").write_bytes(content)
    bad = BadFiles()
    assert [entry["name"] for entry in read_index(tmp_path / "i.jsonl", bad)] == names and not bad.reasons


def test_two_listed_files_of_one_name_are_reported(tmp_path: Path) -> None:
    lines = [{"path": name, "duration": 1} for name in ("a.wav", "a.flac", "b.wav", "b.wav")]
    (tmp_path / "i.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bad = BadFiles()
    assert [entry["name"] for entry in read_index(tmp_path / "i.jsonl", bad)] == ["b.wav", "b.wav"]
    assert [Path(path).name for path in bad.reasons] == ["a.wav", "a.flac"]
    assert "its name differs from" in bad.reasons[str(tmp_path / "a.wav")]


@pytest.mark.parametrize(
    ("output", "first"),
    [
        ("index.jsonl", "books/9/a.flac"),
        ("books/index.jsonl", "9/a.flac"),
        ("new/deep/i.jsonl", "../../books/9/a.flac"),
    ],
)
def test_paths_are_relative_to_the_index_and_read_back_absolute(tmp_path: Path, output: str, first: str) -> None:
    write_tone(tmp_path / "books" / "9" / "a.flac", 0.5)
    build_index(tmp_path / "books", tmp_path / output, progress=False)
    assert entries_of(tmp_path / output) == [{"path": first, "duration": 0.5}]
    read = read_index(tmp_path / output, BadFiles(), data_dir=tmp_path)
    assert read == [{"path": str(tmp_path / "books" / "9" / "a.flac"), "name": first, "duration": 0.5}]


def test_an_interrupted_write_leaves_the_old_index(tmp_path: Path) -> None:
    def interrupted() -> Iterator[dict[str, Any]]:
        yield {"path": "new.flac", "duration": 2.0}
        raise KeyboardInterrupt

    index = tmp_path / "index.jsonl"
    write_index([{"path": "old.flac", "duration": 1.0}], index, tmp_path)
    before = index.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_index(interrupted(), index, tmp_path)
    assert index.read_bytes() == before
    write_index([{"path": "new.flac", "duration": 2.0}], index, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index.jsonl"]


def test_a_killed_run_goes_on_and_gives_the_index_of_one_never_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it hangs on its last file; the run after it reads few headers a second time."""
    root = tmp_path / "books"
    for number in range(150):
        write_tone(root / f"{number:03}.wav", 0.01 * (number + 1))
    whole = build_index(root, tmp_path / "whole.jsonl", progress=False)
    write_tone(root / "998.wav", 1.0)
    program = f"from hf_moshi_ttt.data.index import *\nbuild_index({str(root)!r}, {str(tmp_path / 'i.jsonl')!r})"
    slow = (
        "import *\nfrom hf_moshi_ttt.data import index as m\nimport time\nreal = m._describe\n"
        "def slow(root, name, *more):\n    time.sleep(60 if name == '998.wav' else 0)\n"
        "    return real(root, name, *more)\nm._describe = slow"
    )
    hanging = program.replace("import *", slow)
    run = subprocess.Popen([sys.executable, "-c", hanging], stderr=subprocess.DEVNULL, cwd=ROOT)
    partial = tmp_path / "i.jsonl.partial"
    deadline = time.monotonic() + 60
    while not (partial.is_file() and partial.read_text().count("\n") > 64):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    (root / "998.wav").unlink()
    assert not (tmp_path / "i.jsonl").exists()
    partial.write_text(partial.read_text() + '{"name": "torn')
    described = []
    real = index_module._describe
    monkeypatch.setattr(
        index_module, "_describe", lambda root, name, *more: described.append(name) or real(root, name, *more)
    )
    summary = build_index(root, tmp_path / "i.jsonl", progress=False)
    assert summary == whole
    assert (tmp_path / "i.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    assert len(described) < 90 and "000.wav" not in described
    assert not partial.exists()


@pytest.mark.parametrize("changed", ["02.flac", "02.json"])
def test_what_changed_since_a_killed_run_is_read_again(books: Path, tmp_path: Path, changed: str) -> None:
    """The recordings' durations in the log are not the true ones, to tell what is read again."""
    index, partial = tmp_path / "i.jsonl", tmp_path / "i.jsonl.partial"
    with index_module._ScanLog(partial, books, IndexOptions()) as log:
        index_module.scan_folder(books, IndexOptions(), index_module.IndexSummary(), log, progress=False)
    partial.write_text(re.sub(r'"duration": [\d.]+', '"duration": 77.0', partial.read_text()))
    os.utime(books / "9" / "emma" / changed, (1, 1))
    unfinished = partial.read_text()
    build_index(books, index, progress=False)
    durations = {Path(entry["path"]).name: entry["duration"] for entry in entries_of(index)}
    assert durations == {"01.wav": 77.0, "01.FLAC": 77.0, "02.flac": 0.25}
    partial.write_text(unfinished.replace('"check": false', '"check": true'))
    build_index(books, index, progress=False)
    assert 77.0 not in [entry["duration"] for entry in entries_of(index)]


def test_further_keys_of_an_entry_are_kept(tmp_path: Path) -> None:
    (tmp_path / "i.jsonl").write_text('{"path": "a.flac", "duration": 1, "snr": 20.5}\n')
    (entry,) = read_index(tmp_path / "i.jsonl", BadFiles())
    assert entry == {"path": str(tmp_path / "a.flac"), "name": "a.flac", "duration": 1.0, "snr": 20.5}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"path": "a.flac"}', "expected"),
        (b'{"duration": 1}', "expected"),
        (b"no json", "expected"),
        (b'{"path": "a", "duration": "x"}', "expected"),
        (b"5", "expected"),
        (b'{"path": "\xff", "duration": 1}', "expected .* in UTF-8"),
        (b'{"path": null, "duration": 1}', "path must be a text and duration above 0 seconds"),
        (b'{"path": "a", "duration": -1}', "path must be a text and duration above 0 seconds"),
        (b'{"path": "a", "duration": NaN}', "path must be a text and duration above 0 seconds"),
        (b'{"path": "/etc/a.wav", "duration": 1}', "leads to /etc/a.wav, outside of"),
        (b'{"path": "../a.wav", "duration": 1}', "leads to .*a.wav, outside of .* give data_dir"),
        (b'{"path": "x/../../a.wav", "duration": 1}', "leads to .*a.wav, outside of"),
    ],
)
def test_a_line_that_is_no_entry_is_counted_with_its_number(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "i.jsonl").write_bytes(b'{"path": "a.flac", "duration": 1}\n' + line + b"\n")
    bad = BadFiles()
    assert [entry["name"] for entry in read_index(tmp_path / "i.jsonl", bad)] == ["a.flac"]
    ((where, why),) = bad.reasons.items()
    assert where == f"{tmp_path / 'i.jsonl'}:2"
    with pytest.raises(ValueError, match=reason):
        raise ValueError(why)


def test_missing_and_empty_indexes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"i\.jsonl: no such index\. Make one with hf-moshi-ttt index"):
        read_index(tmp_path / "i.jsonl", BadFiles())
    (tmp_path / "i.jsonl").touch()
    with pytest.raises(ValueError, match=r"i\.jsonl: holds no entries"):
        read_index(tmp_path / "i.jsonl", BadFiles())


def test_a_path_with_a_line_separator_in_it_survives_the_index(tmp_path: Path) -> None:
    write_index([{"path": "a\u2028b.wav", "duration": 1.0}], tmp_path / "i.jsonl", tmp_path)
    assert read_index(tmp_path / "i.jsonl", BadFiles())[0]["path"] == str(tmp_path / "a\u2028b.wav")
