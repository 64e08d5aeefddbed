"""Indexes list corpora in order, with relative paths, in one step; bad files are counted and too many of them stop."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.data.manifests import (
    BadFiles,
    index_audio,
    load_dailytalk,
    load_librilight,
    read_alignments,
    read_index,
    write_index,
)


def write_tone(path: Path, duration_sec: float, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((int(duration_sec * 8000), channels), 0.1), 8000)


def write_lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """Three chapters of two speakers and a text file."""
    root = tmp_path / "books"
    write_tone(root / "9" / "emma" / "02.flac", 0.25)
    write_tone(root / "9" / "emma" / "01.FLAC", 0.5)
    write_tone(root / "10" / "étude" / "01.wav", 1.0)
    (root / "9" / "emma" / "notes.txt").write_text("no audio")
    return root


def test_every_audio_file_is_listed_once_in_the_order_of_paths(books: Path) -> None:
    bad = BadFiles()
    assert list(index_audio(books, bad, progress=False)) == [
        {"path": "10/étude/01.wav", "duration": 1.0},
        {"path": "9/emma/01.FLAC", "duration": 0.5},
        {"path": "9/emma/02.flac", "duration": 0.25},
    ]
    assert bad.reasons == {}


def test_bad_files_are_left_out_and_named(books: Path) -> None:
    (books / "9" / "emma" / "00.flac").write_bytes(b"")
    write_tone(books / "9" / "emma" / "03.wav", 0.0)
    bad = BadFiles()
    assert len(list(index_audio(books, bad, progress=False))) == 3
    assert [Path(path).name for path in bad.reasons] == ["00.flac", "03.wav"]
    assert "not a readable audio file" in bad.reasons[str(books / "9" / "emma" / "00.flac")]
    assert "holds no samples" in bad.reasons[str(books / "9" / "emma" / "03.wav")]


@pytest.mark.parametrize("name", ["missing", "without"])
def test_a_folder_without_audio_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "without").mkdir()
    with pytest.raises(ValueError, match=rf"{name}: no folder with \.flac, \.wav, \.ogg files"):
        list(index_audio(tmp_path / name, BadFiles(), progress=False))


def test_few_bad_files_pass_and_many_stop_with_their_reasons() -> None:
    bad = BadFiles()
    bad.require_few(0)
    bad.add("a.flac", "damaged")
    bad.require_few(100)
    with pytest.raises(
        ValueError, match=r"1 of 99 files cannot be used, more than the 1\.0% allowed(.|\n)*a\.flac: damaged"
    ):
        bad.require_few(99)
    bad.require_few(2, max_bad_fraction=0.5)
    bad.add("a.flac", "still damaged")
    assert bad.reasons == {"a.flac": "still damaged"}


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
    entries = index_audio(tmp_path / "books", BadFiles(), progress=False)
    assert write_index(entries, tmp_path / output, tmp_path / "books") == 1
    (line,) = (tmp_path / output).read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"path": first, "duration": 0.5}
    assert read_index(tmp_path / output) == [{"path": str(tmp_path / "books" / "9" / "a.flac"), "duration": 0.5}]


def test_an_index_moves_with_its_corpus(books: Path, tmp_path: Path) -> None:
    write_index(index_audio(books, BadFiles(), progress=False), books / "index.jsonl", books)
    moved = books.rename(tmp_path / "elsewhere")
    assert load_librilight(moved / "index.jsonl")["path"][0] == str(moved / "10" / "étude" / "01.wav")


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
    assert write_index([{"path": "new.flac", "duration": 2.0}], index, tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["index.jsonl"]


def test_further_keys_of_an_entry_are_kept(tmp_path: Path) -> None:
    index = write_lines(tmp_path / "i.jsonl", {"path": "a.flac", "duration": 1, "snr": 20.5})
    assert read_index(index) == [{"path": str(tmp_path / "a.flac"), "duration": 1.0, "snr": 20.5}]


@pytest.mark.parametrize(
    "line", ['{"path": "a.flac"}', '{"duration": 1}', "no json", '{"path": "a", "duration": "x"}', "5"]
)
def test_a_line_that_is_no_entry_is_refused_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "i.jsonl").write_text('{"path": "a.flac", "duration": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=r'i\.jsonl:2: expected \{"path": \.\.\., "duration": \.\.\.\}, got '):
        read_index(tmp_path / "i.jsonl")


def test_missing_and_empty_indexes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"i\.jsonl: no such index\. Make one with scripts/create_librilight_index\.py"
    ):
        read_index(tmp_path / "i.jsonl")
    with pytest.raises(ValueError, match=r"i\.jsonl: holds no entries"):
        read_index(write_lines(tmp_path / "i.jsonl"))


def test_librilight_tells_speaker_and_book(books: Path, tmp_path: Path) -> None:
    write_index(index_audio(books, BadFiles(), progress=False), tmp_path / "i.jsonl", books)
    corpus = load_librilight(tmp_path / "i.jsonl")
    assert corpus.column_names == ["audio", "path", "duration_sec", "speaker", "book"]
    assert corpus["speaker"][:] == ["10", "9", "9"]
    assert corpus["book"][:] == ["étude", "emma", "emma"]
    assert corpus["duration_sec"][:] == [1.0, 0.5, 0.25]
    assert corpus[2]["audio"] == {"path": str(books / "9" / "emma" / "02.flac"), "bytes": None}
    assert corpus.features["audio"].sampling_rate == 24_000


def test_missing_audiobooks_are_bounded(books: Path, tmp_path: Path) -> None:
    there = [{"path": "books/9/emma/02.flac", "duration": 0.25}] * 99
    gone = {"path": "books/gone.flac", "duration": 1.0}
    assert len(load_librilight(write_lines(tmp_path / "i.jsonl", *there, gone))) == 99
    with pytest.raises(ValueError, match=r"1 of 99 files cannot be used(.|\n)*gone\.flac: missing"):
        load_librilight(write_lines(tmp_path / "i.jsonl", *there[1:], gone))


def test_dailytalk_has_word_times_in_order(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 1.0, channels=2)
    words = [["there", [0.5, 0.75], "SPEAKER_MAIN"], ["hi", [0, 0.25], "SPEAKER_MAIN"], ["oh", [0.5, 0.5], "OTHER"]]
    write_lines(tmp_path / "a.json", {"alignments": words})
    corpus = load_dailytalk(write_lines(tmp_path / "i.jsonl", {"path": "a.wav", "duration": 1.0}))
    assert corpus.column_names == ["audio", "path", "duration_sec", "alignments"]
    assert corpus[0]["alignments"] == [
        {"word": "hi", "start_sec": 0.0, "end_sec": 0.25, "speaker": "SPEAKER_MAIN"},
        {"word": "there", "start_sec": 0.5, "end_sec": 0.75, "speaker": "SPEAKER_MAIN"},
        {"word": "oh", "start_sec": 0.5, "end_sec": 0.5, "speaker": "OTHER"},
    ]


def test_a_conversation_without_words_or_audio_stops_the_load(tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav", 1.0, channels=2)
    index = write_lines(tmp_path / "i.jsonl", {"path": "a.wav", "duration": 1.0})
    with pytest.raises(ValueError, match=r"1 of 1 files cannot be used(.|\n)*No such file(.|\n)*a\.json"):
        load_dailytalk(index)
    write_lines(tmp_path / "a.json", {"alignments": []})
    assert load_dailytalk(index)[0]["alignments"] == []
    (tmp_path / "a.wav").unlink()
    with pytest.raises(ValueError, match=r"1 of 1 files cannot be used(.|\n)*a\.wav: missing"):
        load_dailytalk(index)


@pytest.mark.parametrize("span", ["[0.5, 0.25]", "[-0.1, 0.2]", "[0.1, NaN]"])
def test_a_word_that_is_no_span_of_time_is_refused(tmp_path: Path, span: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"alignments": [["hi", {span}, "SPEAKER_MAIN"]]}}')
    with pytest.raises(ValueError, match=r"a\.json: 'hi' from .* s to .* s is no span of time"):
        read_alignments(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["no json", '{"alignments": [["hi", [0.5]]]}'])
def test_alignments_of_another_form_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError):  # the text is json's or python's own
        read_alignments(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", '{"alignments": null}', '{"alignments": [["a", [null, 1], "S"]]}', '{"alignments": [["a", 1]]}'],
)
def test_alignments_of_other_json_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "1.json").write_text(content)
    with pytest.raises(ValueError, match="1.json: expected"):
        read_alignments(tmp_path / "1.json")


@pytest.mark.parametrize(
    "line", ['{"path": null, "duration": 1}', '{"path": "a", "duration": -1}', '{"path": "a", "duration": NaN}']
)
def test_an_index_line_needs_a_path_and_a_duration(tmp_path: Path, line: str) -> None:
    (tmp_path / "i.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="i.jsonl:1: path must be a text and duration above 0 seconds"):
        read_index(tmp_path / "i.jsonl")


def test_a_path_with_a_line_separator_in_it_survives_the_index(tmp_path: Path) -> None:
    write_index([{"path": "a\u2028b.wav", "duration": 1.0}], tmp_path / "i.jsonl", tmp_path)
    assert read_index(tmp_path / "i.jsonl")[0]["path"] == str(tmp_path / "a\u2028b.wav")
