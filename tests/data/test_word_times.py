"""Word times are read in order, refused when they are damaged, and swapped without taking silence for a label."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_moshi_ttt.data.word_times import (
    WordTimes,
    main_speakers_words,
    name_main_speaker,
    read_word_times,
    swap_speakers,
    within_audio,
)

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


@pytest.mark.parametrize("span", ["[-0.1, 0.2]", "[NaN, 0.2]", "[Infinity, 0.2]", "[null, 1]", "[true, 1]", '["0", 1]'])
def test_a_file_of_unusable_words_is_refused(tmp_path: Path, span: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"alignments": [["hi", {span}, "SPEAKER_MAIN"]]}}')
    with pytest.raises(ValueError, match=r"a\.json: 'hi' from .* s to .* s is no span of time \(1 of 1 words cannot"):
        read_word_times(tmp_path / "a.json")


@pytest.mark.parametrize("end", ["0.25", "null", "NaN", "Infinity", '"1"'])
def test_an_end_that_is_none_is_the_start(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.json").write_text(f'{{"alignments": [["hi", [0.5, {end}], "SPEAKER_MAIN"]]}}')
    times = read_word_times(tmp_path / "a.json")
    assert (times.words[0]["start_sec"], times.words[0]["end_sec"], times.labelled_until_sec) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("odd", [["b", [-1.0, 1.0], "A"], ["b", [None, 1.0], "A"], ["b"], [None, [0, 1], "A"], 5])
def test_one_odd_word_is_left_out_and_named(tmp_path: Path, odd: Any) -> None:
    times = read_word_times(write(tmp_path, HI, odd, THERE))
    assert [word["word"] for word in times.words] == ["hi", "there"]
    assert len(times.left_out) == 1 and re.search("is no span of time|expected", times.left_out[0])
    with pytest.raises(ValueError, match=r"a\.json: .*\(2 of 4 words cannot be used\)"):
        read_word_times(write(tmp_path, HI, odd, odd, THERE))
    many = [["w", [number, number + 0.5], "A"] for number in range(27)]
    assert len(read_word_times(write(tmp_path, *many, odd, odd, odd)).left_out) == 3


def test_words_in_another_order_or_over_each_other_are_taken(tmp_path: Path) -> None:
    times = read_word_times(write(tmp_path, ["a", [1.0, 2.0], "A"], ["b", [0.5, 1.9], "A"], ["c", [1.2, 3], "A"]))
    assert [word["word"] for word in times.words] == ["b", "a", "c"] and times.labelled_until_sec == 3.0


def test_times_that_begin_anew_are_refused(tmp_path: Path) -> None:
    """As of a recording that was transcribed in pieces."""
    words = [["w", [number % 30, number % 30 + 0.5], "A"] for number in range(60)]
    with pytest.raises(ValueError, match=r"a\.json: 29 of A's 60 words are not in order of time: do their times begin"):
        read_word_times(write(tmp_path, *words))


def test_the_case_of_known_speakers_does_not_matter(tmp_path: Path) -> None:
    times = read_word_times(write(tmp_path, ["a", [0, 1], "speaker_main"], ["b", [1, 2], "Speaker_User"], OH))
    assert [word["speaker"] for word in times.words] == ["SPEAKER_MAIN", "B", "SPEAKER_USER"]


def test_another_label_is_made_the_main_speakers(tmp_path: Path) -> None:
    named = name_main_speaker(read_word_times(write(tmp_path, HI, OH)), "B")
    assert [(word["word"], word["speaker"]) for word in named.words] == [("hi", "SPEAKER_USER"), ("oh", "SPEAKER_MAIN")]
    assert name_main_speaker(named, "SPEAKER_MAIN") == named


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = write(tmp_path, HI)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_word_times(path).words) == 1


@pytest.mark.parametrize(
    "content",
    [
        "{}", "[]", '{"alignments": null}', '{"alignments": [["a", 1]]}',
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


def spread(starts_sec: list[float]) -> WordTimes:
    return main_speakers_words([{"word": f"w{at:g}", "start_sec": at} for at in starts_sec])


@pytest.mark.parametrize(
    ("starts_sec", "found"),
    [
        ([480.0, 800.0], "'w480' starts at 480 s, but the audio is 8 s long (2 of 2"),
        ([0.0, 480.0], "'w480' starts at 480 s, but the audio is 8 s long (1 of 2"),
        ([8.0], "'w8' starts at 8 s, but the audio is 8 s long (1 of 1"),
        ([*range(8), 9.0, 10.0], "'w9' starts at 9 s, but the audio is 8 s long (2 of 10"),
    ],
)
def test_words_in_another_unit_are_refused(starts_sec: list[float], found: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"a.json: {found}") + r" words .* seconds: are these milliseconds"):
        within_audio("a.json", spread(starts_sec), 8.0)


def test_a_small_overhang_is_left_out_and_named() -> None:
    inside = [number / 5 for number in range(27)]
    for after in ([8.0], [8.0, 8.5, 1e308]):
        times = within_audio("a.json", spread([*after, *inside]), 8.0)
        assert [word["start_sec"] for word in times.words] == inside and len(times.beyond_end) == len(after)
        assert times.beyond_end[0] == "'w8' starts at 8 s, after the 8 s of audio"
    assert within_audio("a.json", spread([7.5, 8.05]), 8.01).beyond_end == []  # in the frame that the audio begins
    assert within_audio("a.json", spread([]), 8.0) == spread([])


def test_words_in_memory_are_read_as_those_of_files() -> None:
    words = [
        {"word": "b", "start_sec": np.float32(0.5)},
        {"word": "of the user", "start_sec": 0.1, "end_sec": 0.4, "speaker": "SPEAKER_USER"},
        {"word": "a", "start_sec": 0, "end_sec": 0.25, "speaker": "SPEAKER_MAIN"},
    ]
    assert main_speakers_words(words).words == [
        {"word": "a", "start_sec": 0.0, "end_sec": 0.25, "speaker": "SPEAKER_MAIN"},
        {"word": "b", "start_sec": 0.5, "end_sec": 0.5, "speaker": "SPEAKER_MAIN"},
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [("hello", 0.1, 0.4)],
            r"words\[0\]=\('hello', 0.1, 0.4\), but a word must be a dict {\"word\": text",
        ),
        ("hello", r"words\[0\]='hello', but a word must be a dict"),
        (5, r"words\[0\]=5, but a word must be a dict"),
        ([{"word": "hello", "start": 0.1}], "but a word must be a dict"),
        (
            [{"word": "hello", "start_sec": -0.1}],
            r"words\[0\]: 'hello' from -0.1 s .* from the audio's start, 0",
        ),
        ([{"word": "hello", "start_sec": None}], r"words\[0\]: 'hello' from None s"),
    ],
)
def test_words_of_another_form_are_refused(words: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main_speakers_words(words)
