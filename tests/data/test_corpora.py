"""Corpora are ordinary datasets: audiobooks, conversations and their swap, windows, mixtures, and what is left out."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset, IterableDataset
from datasets.distributed import split_dataset_by_node

from hf_moshi_ttt.data.corpora import FEATURES, detect_kind, load_corpus, load_dailytalk, load_librilight, windows

WORDS = [
    ["hi", [0, 0.25], "SPEAKER_MAIN"], ["oh", [0.5, 0.75], "B"], ["there", [1.0, 1.5], "SPEAKER_MAIN"],
    ["far", [11.9, 12.0], "SPEAKER_MAIN"],
]  # fmt: skip


def write_tone(path: Path, duration_sec: float, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((int(duration_sec * 8000), channels), 0.1), 8000)


def write_lines(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


@pytest.fixture
def books(tmp_path: Path) -> Path:
    """A folder of two chapters with an index in it."""
    write_tone(tmp_path / "books" / "9" / "emma" / "1.flac", 2.5)
    write_tone(tmp_path / "books" / "9" / "emma" / "2.flac", 1.0)
    lines = [
        {"path": "9/emma/1.flac", "duration": 2.5, "speaker": "9", "book": "emma", "snr": 4.5},
        {"path": "9/emma/2.flac", "duration": 1.0, "extra": 1},
    ]
    write_lines(tmp_path / "books" / "i.jsonl", *lines)
    return tmp_path / "books"


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """The index of one conversation."""
    write_tone(tmp_path / "talks" / "a.wav", 13.0, channels=2)
    write_lines(tmp_path / "talks" / "a.json", {"alignments": WORDS})
    return write_lines(tmp_path / "talks" / "i.jsonl", {"path": "a.wav", "duration": 13.0})


def test_audiobooks_have_their_index_and_no_words(books: Path) -> None:
    corpus = load_librilight(books / "i.jsonl")
    assert isinstance(corpus, Dataset) and corpus.features == FEATURES
    assert isinstance(corpus.features["audio"], Audio) and corpus.features["audio"].sampling_rate == 24_000
    path = str(books / "9" / "emma" / "1.flac")
    assert corpus[0] == {
        "audio": path, "path": path, "name": "9/emma/1.flac", "start_sec": 0.0,
        "duration_sec": 2.5, "speaker": "9", "book": "emma", "title": None, "snr": 4.5, "main_channel": None,
        "alignments": None, "labelled_until_sec": None,
    }  # fmt: skip
    assert corpus[1]["speaker"] is None
    assert corpus[0]["audio"].read().shape == (1, 60_000)


def test_a_stream_has_the_same_rows(books: Path, talks: Path) -> None:
    for load, source in ((load_librilight, books), (load_dailytalk, talks)):
        stream = load(source, streaming=True)
        assert isinstance(stream, IterableDataset) and stream.features == FEATURES
        assert list(stream) == list(load(source))


def test_workers_share_a_stream(books: Path) -> None:
    index = write_lines(books / "i.jsonl", *[{"path": "9/emma/1.flac", "duration": 2.5, "snr": n} for n in range(10)])
    stream = load_librilight(index, streaming=True)
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(row["snr"] for row in loader) == list(range(10))
    ranks = [split_dataset_by_node(stream, rank, 2) for rank in range(2)]
    assert sorted(row["snr"] for rank in ranks for row in rank) == list(range(10))


def test_a_folder_is_its_index_or_its_files(books: Path) -> None:
    names = ["9/emma/1.flac", "9/emma/2.flac"]
    assert list(load_librilight(books)["snr"]) == [4.5, None]
    write_lines(books / "other.jsonl", {"path": "9/emma/2.flac", "duration": 1.0})
    with pytest.raises(ValueError, match=r"books: holds several indexes \(i\.jsonl, other\.jsonl\); name one"):
        load_librilight(books)
    for index in books.glob("*.jsonl"):
        index.unlink()
    corpus = load_librilight(books)
    assert (list(corpus["name"]), list(corpus["book"]), list(corpus["duration_sec"])) == (
        names,
        ["emma"] * 2,
        [2.5, 1.0],
    )


def test_conversations_have_words_and_the_left_channel_is_moshis(talks: Path) -> None:
    (row,) = load_dailytalk(talks)
    assert [(word["word"], word["speaker"]) for word in row["alignments"]] == [(word, who) for word, _, who in WORDS]
    assert (row["main_channel"], row["labelled_until_sec"]) == (0, 12.0)


def test_swap_changes_channel_and_words(talks: Path) -> None:
    (row,) = load_dailytalk(talks, swap=True)
    assert row["main_channel"] == 1
    main = [word["word"] for word in row["alignments"] if word["speaker"] == "SPEAKER_MAIN"]
    assert main == ["oh"] and len(row["alignments"]) == 4


def test_windows_cover_everything_and_words_count_from_their_start(talks: Path, books: Path) -> None:
    for corpus in (load_dailytalk(talks), load_dailytalk(talks, streaming=True)):
        rows = list(windows(corpus, 6.0))
        assert [(row["start_sec"], row["duration_sec"]) for row in rows] == [(0.0, 6.0), (6.0, 6.0), (12.0, 1.0)]
        assert [word["word"] for word in rows[0]["alignments"]] == ["hi", "oh", "there"]
        starts = [[round(word["start_sec"], 6) for word in row["alignments"]] for row in rows[1:]]
        assert starts == [[-6.0, -5.5, -5.0, 5.9], [-0.1]]  # words from 10 s before, whose tokens may still wait
        assert [row["labelled_until_sec"] for row in rows] == [12.0, 6.0, 0.0]
        assert rows[2]["audio"].read(rows[2]["start_sec"], rows[2]["duration_sec"]).shape == (2, 24_000)
    parts = [
        (row["name"][-6], row["start_sec"], row["duration_sec"]) for row in windows(load_librilight(books), 1.0, 0.25)
    ]
    assert parts == [("1", 0.0, 1.0), ("1", 0.75, 1.0), ("1", 1.5, 1.0), ("2", 0.0, 1.0)]


@pytest.mark.parametrize("format_name", ["numpy", "torch"])
def test_windows_are_exact_at_ten_hours_whatever_the_format(books: Path, format_name: str) -> None:
    late = load_librilight(books).map(lambda row: {"start_sec": 36_000.0123, "duration_sec": 2.5}, features=FEATURES)
    in_format = late.with_format(format_name)
    assert list(windows(in_format, 1.0)) == list(windows(late, 1.0))
    assert windows(in_format, 1.0)["start_sec"][:3] == [36_000.0123, 36_001.0123, 36_002.0123]
    stream = late.to_iterable_dataset().with_format(format_name)
    assert list(windows(stream, 1.0)) == list(windows(late, 1.0))


@pytest.mark.parametrize("overlap_sec", [-0.1, 1.0, 2.0])
def test_windows_that_do_not_move_on_are_refused(books: Path, overlap_sec: float) -> None:
    with pytest.raises(ValueError, match=rf"duration_sec=1.0 and overlap_sec={overlap_sec}, but the overlap must be"):
        windows(load_librilight(books), 1.0, overlap_sec)


def test_the_kind_is_told_by_the_files_whatever_the_path(books: Path, talks: Path, tmp_path: Path) -> None:
    assert detect_kind(books) == "librilight"
    assert detect_kind(talks) == "dailytalk"
    assert detect_kind(talks.rename(talks.with_name("my_LibriLight.jsonl"))) == "dailytalk"
    talks.parent.rename(tmp_path / "librilight")
    assert detect_kind(tmp_path / "librilight" / "my_LibriLight.jsonl") == "dailytalk"


def test_a_name_decides_for_files_that_do_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Some with words and some without, two channels without words, and words beside one channel."""
    for number, files in enumerate(([(1, True), (2, True)], [(2, False)], [(1, True)], [(1, False), (2, False)])):
        folder = tmp_path / f"librilight_{number}"
        for place, (channels, has_words) in enumerate(files):
            write_tone(folder / "deep" / f"{place}.wav", 1.0, channels)
            if has_words:
                write_lines(folder / "deep" / f"{place}.json", {"alignments": []})
        facts = rf"of the first {len(files)} files \d have two channels and {sum(has for _, has in files)} have word"
        with pytest.raises(ValueError, match=rf"deep: {facts}.*; say which kind it is: librilight .* or dailytalk"):
            detect_kind(folder / "deep")
        assert detect_kind(folder) == "librilight"
        assert f"librilight_{number}: of the first" in caplog.text and "its name decides: librilight" in caplog.text


def test_durations_are_those_of_the_files(books: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = write_lines(books / "i.jsonl", {"path": "9/emma/1.flac", "duration": 2.45})
    assert load_librilight(index)[0]["duration_sec"] == 2.5 and caplog.text == ""
    for said in (30.0, 0.5):
        write_lines(index, {"path": "9/emma/1.flac", "duration": said})
        assert [row["duration_sec"] for row in windows(load_librilight(index), 2.0)] == [2.0, 0.5]
        assert f"1 files are not as long as it says: {books}/9/emma/1.flac holds 2.500 s, not {said} s." in caplog.text


def test_reasons_are_named_when_nothing_is_left(books: Path) -> None:
    index = write_lines(books / "i.jsonl", {"path": "gone.flac", "duration": 1.0}, {"path": "9"})
    with pytest.raises(ValueError, match=r"no file can be used:\n.*i\.jsonl:2: expected(.|\n)*gone\.flac: missing"):
        load_librilight(index, max_bad_fraction=1.0)


def test_another_form_of_a_name_and_links_to_nothing_are_named(tmp_path: Path) -> None:
    write_tone(tmp_path / unicodedata.normalize("NFD", "é.wav"), 1.0)
    (tmp_path / "b.wav").symlink_to(".git/annex/objects/b.wav")
    reasons = {"é.wav": "name there has another Unicode form", "b.wav": r"a link to \.git.*git annex get"}
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=rf"missing: .*{reason}"):
            load_librilight(write_lines(tmp_path / "i.jsonl", {"path": name, "duration": 1.0}))


def test_a_folder_of_links_is_read_when_their_store_is_named(books: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "1.flac").symlink_to(books / "9" / "emma" / "1.flac")
    with pytest.raises(ValueError, match="if that is meant, give data_dir"):
        load_librilight(tmp_path / "links")
    assert load_librilight(tmp_path / "links", data_dir=tmp_path)[0]["duration_sec"] == 2.5


def test_what_is_left_out_of_a_folder_is_said(books: Path, caplog: pytest.LogCaptureFixture) -> None:
    (books / "i.jsonl").unlink()
    (books / "9" / "emma" / "3.aac").touch()
    assert len(load_librilight(books)) == 2
    assert "left out: {'.aac is not read: convert it to FLAC (ffmpeg -i NAME.aac NAME.flac)': 1}" in caplog.text


def words_of(row: dict[str, Any]) -> list[str]:
    return [word["word"] for word in row["alignments"] if word["speaker"] == "SPEAKER_MAIN"]


def test_other_labels_are_never_taken_for_silence(talks: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One label is the left channel's, with a warning; of several, it must be said which one is."""
    beside = talks.with_name("a.json")
    write_lines(beside, {"alignments": [["a", [0, 1], "SPEAKER_00"], ["b", [1, 2], "SPEAKER_00"]]})
    assert words_of(load_dailytalk(talks)[0]) == ["a", "b"]
    assert "all words are labelled SPEAKER_00: taken for those of the left channel" in caplog.text
    write_lines(beside, {"alignments": [["a", [0, 1], "SPEAKER_00"], ["b", [1, 2], "SPEAKER_01"]]})
    with pytest.raises(ValueError, match=r"labelled \['SPEAKER_00', 'SPEAKER_01'\], none SPEAKER_MAIN; say with main"):
        load_dailytalk(talks)
    assert words_of(load_corpus(talks, main_speaker="SPEAKER_01")[0]) == ["b"]
    assert words_of(load_corpus(talks, main_speaker="SPEAKER_01", swap=True)[0]) == ["a"]
    with pytest.raises(ValueError, match=r"main_speaker='X', but the words are labelled \['SPEAKER_00', "):
        load_dailytalk(talks, main_speaker="X")
    with pytest.raises(ValueError, match="main_speaker is for conversations, but the kind is librilight"):
        load_corpus(talks, "librilight", main_speaker="X")


def test_odd_words_are_left_out_and_said(talks: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(talks.with_name("a.json"), {"alignments": [*WORDS, ["odd", [None, 1], "SPEAKER_MAIN"]]})
    assert len(load_dailytalk(talks)[0]["alignments"]) == len(WORDS)
    assert "1 words left out, e.g." in caplog.text and "'odd' from None s to 1 s is no span of time" in caplog.text


def test_words_beyond_the_end_are_counted_and_said(talks: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_lines(talks.with_name("a.json"), {"alignments": [*WORDS, ["late", [13.5, 13.6], "SPEAKER_MAIN"]]})
    assert len(load_dailytalk(talks)[0]["alignments"]) == len(WORDS)
    assert "1 words beyond the end of their audio left out, e.g." in caplog.text
    assert "a.wav: 'late' starts at 13.5 s, after the 13 s of audio" in caplog.text


def test_any_corpus_can_be_asked_for_by_kind(books: Path, talks: Path) -> None:
    assert load_corpus(books)[0]["alignments"] is None
    assert load_corpus(talks, swap=True)[0]["main_channel"] == 1
    assert load_corpus(talks, "librilight")[0]["alignments"] is None
    with pytest.raises(ValueError, match="kind='books', but it must be one of librilight, dailytalk"):
        load_corpus(books, "books")
    with pytest.raises(ValueError, match="swap is for conversations, but the kind is librilight"):
        load_corpus(books, swap=True)


def test_mixtures_hold_both_kinds(books: Path, talks: Path) -> None:
    mixture = load_corpus({books: 1.0, talks: 1.0}, seed=1)
    assert {row["name"] for row in mixture} == {"9/emma/1.flac", "9/emma/2.flac", "a.wav"}
    stream = load_corpus({books: 1.0, talks: 1.0}, seed=1, streaming=True)
    assert isinstance(stream, IterableDataset) and [row["name"] for row in stream] == list(mixture["name"])


def test_missing_audiobooks_are_bounded(books: Path, caplog: pytest.LogCaptureFixture) -> None:
    there = [{"path": "9/emma/1.flac", "duration": 2.5}] * 99
    gone = {"path": "gone.flac", "duration": 1.0}
    assert len(load_librilight(write_lines(books / "i.jsonl", *there, gone))) == 99
    assert "1 of 100 files left out" in caplog.text and "gone.flac': 'missing'" in caplog.text
    index = write_lines(books / "i.jsonl", *there[1:], gone)
    with pytest.raises(ValueError, match=r"1 of 99 files cannot be used(.|\n)*gone\.flac: missing"):
        load_librilight(index)
    assert len(load_librilight(index, max_bad_fraction=0.02)) == 98


def test_a_conversation_without_words_or_audio_stops_the_load(talks: Path) -> None:
    beside = talks.with_name("a.json")
    beside.unlink()
    with pytest.raises(ValueError, match=r"1 of 1 files cannot be used(.|\n)*there is no a\.json beside it"):
        load_dailytalk(talks)
    write_lines(beside, {"alignments": []})
    assert load_dailytalk(talks)[0]["alignments"] == []
    talks.with_name("a.wav").unlink()
    with pytest.raises(ValueError, match=r"1 of 1 files cannot be used(.|\n)*a\.wav: missing"):
        load_dailytalk(talks)


def test_nothing_outside_of_the_data_folder_is_read_unless_asked(books: Path, talks: Path, tmp_path: Path) -> None:
    index = write_lines(tmp_path / "talks" / "j.jsonl", {"path": "../books/9/emma/1.flac", "duration": 2.5})
    with pytest.raises(ValueError, match=r"j\.jsonl:1: leads to .*1\.flac, outside of .*talks"):
        load_librilight(index)
    assert load_librilight(index, data_dir=tmp_path)[0]["path"] == str(books / "9" / "emma" / "1.flac")
    write_lines(index, {"path": "../talks/../talks/a.wav", "duration": 13.0})
    moved = index.rename(books / "k.jsonl")
    assert detect_kind(moved, data_dir=tmp_path) == "dailytalk"
    assert load_corpus(moved, data_dir=tmp_path)[0]["main_channel"] == 0
    beside = talks.with_name("a.json")
    beside.rename(tmp_path / "secret.json")
    beside.symlink_to(tmp_path / "secret.json")
    with pytest.raises(ValueError, match=r"a\.wav: leads to .*secret\.json, outside of"):
        load_dailytalk(talks)


def test_an_index_moves_with_its_corpus(books: Path, tmp_path: Path) -> None:
    moved = books.rename(tmp_path / "elsewhere")
    assert load_librilight(moved / "i.jsonl")["path"][0] == str(moved / "9" / "emma" / "1.flac")


def test_a_part_of_a_long_file_is_read_by_seeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 s at minute 50 of an hour: no more samples are decoded than asked for."""
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 24_000, 1) as file:
        minute = np.random.default_rng(0).uniform(-0.1, 0.1, 60 * 24_000)
        for number in range(60):
            file.write(minute * (number + 1) / 60)
    decoded: list[Any] = []
    real = soundfile.SoundFile.read

    def counted(self: soundfile.SoundFile, frames: int = -1, *args: Any, **kwargs: Any) -> np.ndarray:
        samples = real(self, frames, *args, **kwargs)
        decoded.append(len(samples))
        return samples

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    (row,) = load_librilight(tmp_path)
    part = row["audio"].read(3000.0, 20.0)
    assert part.shape == (1, 480_000) and sum(decoded) == 480_000
    assert part[0] == pytest.approx(minute[:480_000] * 51 / 60, abs=1e-4)
