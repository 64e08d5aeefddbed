"""Word times are read in order, refused when they are damaged, and swapped without taking silence for a label."""

import json
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.data.word_times import WordTimes, read_word_times, swap_speakers

HI = ["hi", [0, 0.25], "SPEAKER_MAIN"]
THERE = ["there", [0.5, 0.75], "SPEAKER_MAIN"]
OH = ["oh", [0.4, 0.6], "B"]


def write(folder: Path, *words: Any, **keys: Any) -> Path:
    (folder / "a.json").write_text(json.dumps({"alignments": list(words), **keys}))
    return folder / "a.json"


def test_words_are_in_order_of_time_whoever_speaks(tmp_path: Path) -> None:
    times = read_word_times(write(tmp_path, HI, THERE, OH))
    assert times.words == [
        {"word": "hi", "start_sec": 0.0, "end_sec": 0.25, "speaker": "SPEAKER_MAIN"},
        {"word": "oh", "start_sec": 0.4, "end_sec": 0.6, "speaker": "B"},
        {"word": "there", "start_sec": 0.5, "end_sec": 0.75, "speaker": "SPEAKER_MAIN"},
    ]


def test_labels_end_with_the_last_word_or_where_the_file_says(tmp_path: Path) -> None:
    assert read_word_times(write(tmp_path, HI, OH)).labelled_until_sec == 0.6
    assert read_word_times(write(tmp_path)).labelled_until_sec == 0.0
    assert read_word_times(write(tmp_path, HI, labelled_until_sec=9)).labelled_until_sec == 9.0
    for value in ("x", -1, float("nan"), None):
        with pytest.raises(ValueError, match=r"a\.json: labelled_until_sec=.* must be a number of seconds"):
            read_word_times(write(tmp_path, labelled_until_sec=value))


@pytest.mark.parametrize("span", ["[0.5, 0.25]", "[-0.1, 0.2]", "[0.1, NaN]", "[0.1, Infinity]"])
def test_a_word_that_is_no_span_of_time_is_refused(tmp_path: Path, span: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"alignments": [["hi", {span}, "SPEAKER_MAIN"]]}}')
    with pytest.raises(ValueError, match=r"a\.json: 'hi' from .* s to .* s is no span of time"):
        read_word_times(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        (["b", [0.1, 0.3], "A"], r"A's 'b' at 0\.1 s is not in order of time \('a' from 1\.0 s to 2\.0 s"),
        (["b", [1.9, 2.5], "A"], r"A's 'b' at 1\.9 s overlaps \('a' from 1\.0 s to 2\.0 s"),
    ],
)
def test_unsorted_and_overlapping_words_of_a_speaker_are_refused(tmp_path: Path, word: list, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_word_times(write(tmp_path, ["a", [1.0, 2.0], "A"], word))
    assert len(read_word_times(write(tmp_path, ["a", [1.0, 2.0], "A"], [word[0], word[1], "B"])).words) == 2
    assert len(read_word_times(write(tmp_path, ["a", [1.0, 2.0], "A"], ["b", [1.93, 3], "A"])).words) == 2


@pytest.mark.parametrize(
    "content",
    [
        "{}", "[]", '{"alignments": null}', '{"alignments": [["a", [null, 1], "S"]]}', '{"alignments": [["a", 1]]}',
        '{"alignments": [["hi", [0.5]]]}', '{"alignments": [[null, [0, 1], "S"]]}',
        '{"alignments": [["a", [0, 1], 5]]}',
    ],
)  # fmt: skip
def test_alignments_of_another_form_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "1.json").write_text(content)
    with pytest.raises(ValueError, match=r"1\.json: expected"):
        read_word_times(tmp_path / "1.json")


def test_what_is_no_json_or_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text("no json")
    with pytest.raises(ValueError, match=r"1\.json: not JSON"):
        read_word_times(tmp_path / "1.json")
    (tmp_path / "1.json").write_bytes('{"alignments": [["é", [0, 1], "A"]]}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"1\.json: not UTF-8"):
        read_word_times(tmp_path / "1.json")


def test_swap_makes_the_other_speaker_the_main_one(tmp_path: Path) -> None:
    swapped = swap_speakers(read_word_times(write(tmp_path, HI, OH, labelled_until_sec=3)))
    assert [(word["word"], word["speaker"]) for word in swapped.words] == [
        ("hi", "SPEAKER_USER"),
        ("oh", "SPEAKER_MAIN"),
    ]
    assert swapped.labelled_until_sec == 3.0


def test_a_speaker_without_words_is_unlabelled_after_the_swap(tmp_path: Path) -> None:
    swapped = swap_speakers(read_word_times(write(tmp_path, HI)))
    assert swapped == WordTimes([{"word": "hi", "start_sec": 0.0, "end_sec": 0.25, "speaker": "SPEAKER_USER"}], 0.0)


def test_three_speakers_cannot_be_swapped(tmp_path: Path) -> None:
    times = read_word_times(write(tmp_path, HI, OH, ["x", [3, 4], "C"]))
    with pytest.raises(ValueError, match=r"swap needs two speakers, but beside SPEAKER_MAIN there are \['B', 'C'\]"):
        swap_speakers(times)
