"""Word times of conversations: `{"alignments": [[word, [start_sec, end_sec], speaker], ...]}` beside each audio file.

The format of `kyutai/DailyTalkContiguous`. A further key `labelled_until_sec` says up to where every word is listed;
without it the labels end with the last word, as it is unknown whether what follows is silence or was not transcribed.

Words may come in any order and overlap, since only their starts count. One word without a usable start, or a tenth of
them, is left out and reported; more refuse the file. The same holds of words that start after the audio's end.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsFloat

from ..codec.audio import frames_from_sec, sec_from_frames
from .text_files import read_json

MAIN_SPEAKER = "SPEAKER_MAIN"
OTHER_SPEAKER = "SPEAKER_USER"
MAX_ODD_FRACTION = 0.1


@dataclass(frozen=True)
class WordTimes:
    """Words `{word, start_sec, end_sec, speaker}` in order of their starts, and up to where all of them are listed.

    Args:
        left_out: why words could not be used, each with the word.
        beyond_end: the same of words that start after the audio's end.
    """

    words: list[dict[str, Any]]
    labelled_until_sec: float
    left_out: list[str] = field(default_factory=list)
    beyond_end: list[str] = field(default_factory=list)


def read_word_times(path: str | Path) -> WordTimes:
    """Reads one file.

    Raises:
        ValueError: another form, no UTF-8, or too many words that are unusable or not in order.
        OSError: the file cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("alignments"), list):
        raise ValueError(f'{path}: expected {{"alignments": [[word, [start_sec, end_sec], speaker], ...]}}.')
    words, left_out = [], []
    for item in content["alignments"]:
        try:
            words.append(read_word(*_items_of(item)))
        except ValueError as error:
            left_out.append(str(error))
    require_usable(path, words, left_out)
    last_sec = max((word["end_sec"] for word in words), default=0.0)
    until_sec = content.get("labelled_until_sec", last_sec)
    if not isinstance(until_sec, int | float) or not 0 <= until_sec < math.inf:
        raise ValueError(f"{path}: labelled_until_sec={until_sec!r}, but it must be a number of seconds, 0 or more.")
    return WordTimes(in_order(words), float(until_sec), left_out)


def in_order(words: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Words in order of their starts; those of one start stay as they come."""
    return sorted(words, key=lambda word: word["start_sec"])


def main_speakers_words(items: Any) -> WordTimes:
    """Words `{word, start_sec, end_sec}` of Moshi's speaker, given in memory and in any order; `end_sec` may be absent.

    Words that name another `speaker`, as those of a whole conversation do, are not Moshi's and are left out.

    Raises:
        ValueError: another form, or a start that is no finite number of seconds, 0 or more.
    """
    words = []
    for place, item in enumerate(
        [items] if isinstance(items, dict | str) or not isinstance(items, Iterable) else items
    ):
        if not isinstance(item, dict) or not {"word", "start_sec"} <= item.keys():
            raise ValueError(
                f'words[{place}]={item!r}, but a word must be a dict {{"word": text, "start_sec": seconds, "end_sec": '
                "seconds}."
            )
        if item.get("speaker", MAIN_SPEAKER) != MAIN_SPEAKER:
            continue
        try:
            words.append(read_word(item["word"], item["start_sec"], item.get("end_sec"), MAIN_SPEAKER))
        except ValueError as error:
            raise ValueError(f"words[{place}]: {error} Times are seconds from the audio's start, 0 or more.") from error
    return WordTimes(in_order(words), max((word["end_sec"] for word in words), default=0.0))


def within_audio(name: str | Path, times: WordTimes, duration_sec: float) -> WordTimes:
    """The words that start before the audio's end, the others in `beyond_end`.

    Args:
        name: of the words, for errors.

    Raises:
        ValueError: half of the words, or more than one and than a tenth of them, start after the audio's end: no
            overhang is as large.
    """
    end_sec, total = sec_from_frames(frames_from_sec(duration_sec)), len(times.words)
    after = [word for word in times.words if word["start_sec"] >= end_sec]
    if after and (len(after) > max(1.0, MAX_ODD_FRACTION * total) or 2 * len(after) >= total):
        raise ValueError(
            f"{name}: {_said(after[0])}, but the audio is {duration_sec:g} s long ({len(after)} of {total} words start "
            "after its end). Times are seconds: are these milliseconds, or those of other audio?"
        )
    beyond = [f"{_said(word)}, after the {duration_sec:g} s of audio" for word in after]
    return replace(times, words=times.words[: total - len(after)], beyond_end=beyond)


def _said(word: dict[str, Any]) -> str:
    return f"{word['word']!r} starts at {word['start_sec']:g} s"


def name_main_speaker(times: WordTimes, label: str) -> WordTimes:
    """The words of the speaker `label` as those of `SPEAKER_MAIN`."""
    others = {MAIN_SPEAKER: OTHER_SPEAKER}
    renamed = [
        {**word, "speaker": MAIN_SPEAKER if word["speaker"] == label else others.get(word["speaker"], word["speaker"])}
        for word in times.words
    ]
    return replace(times, words=renamed)


def swap_speakers(times: WordTimes) -> WordTimes:
    """The other speaker as the main one. Without words of the other speaker, nothing is labelled.

    Raises:
        ValueError: more than two speakers.
    """
    others = {word["speaker"] for word in times.words} - {MAIN_SPEAKER}
    if len(others) > 1:
        raise ValueError(f"swap needs two speakers, but beside {MAIN_SPEAKER} there are {sorted(others)}.")
    swapped = [
        {**word, "speaker": MAIN_SPEAKER if word["speaker"] in others else OTHER_SPEAKER} for word in times.words
    ]
    return replace(times, words=swapped, labelled_until_sec=times.labelled_until_sec if others else 0.0)


def read_word(word: Any, start: Any, end: Any, speaker: Any) -> dict[str, Any]:
    """One word; an end that is missing, not finite or before the start counts as the start.

    Raises:
        ValueError: no text, no speaker, or a start that is no finite number of seconds, 0 or more.
    """
    if not isinstance(word, str) or not isinstance(speaker, str):
        raise ValueError(f"expected [word, [start_sec, end_sec], speaker], got {[word, [start, end], speaker]!r}.")
    start_sec, end_sec = _number(start), _number(end)
    if not 0 <= start_sec < math.inf:
        raise ValueError(f"{word!r} from {start} s to {end} s is no span of time.")
    is_span = start_sec <= end_sec < math.inf
    known = {name.lower(): name for name in (MAIN_SPEAKER, OTHER_SPEAKER)}
    return {
        "word": word,
        "start_sec": start_sec,
        "end_sec": end_sec if is_span else start_sec,
        "speaker": known.get(speaker.lower(), speaker),
    }


def require_usable(path: str | Path, words: Sequence[dict[str, Any]], left_out: Sequence[str]) -> None:
    """Raises ValueError where more than a tenth of a file's words are unusable or out of order; one always may be."""
    total = len(words) + len(left_out)
    most = max(1.0, MAX_ODD_FRACTION * total)
    if left_out and (len(left_out) > most or not words):
        raise ValueError(f"{path}: {left_out[0].rstrip('.')} ({len(left_out)} of {total} words cannot be used).")
    for speaker in {word["speaker"] for word in words}:
        starts = [word["start_sec"] for word in words if word["speaker"] == speaker]
        unsorted = _out_of_order(starts)
        if unsorted > most:
            raise ValueError(
                f"{path}: {unsorted} of {speaker}'s {len(starts)} words are not in order of time: do their times begin "
                "anew somewhere?"
            )


def _items_of(item: Any) -> tuple[Any, Any, Any, Any]:
    try:
        word, (start, end), speaker = item
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected [word, [start_sec, end_sec], speaker], got {item!r}.") from error
    return word, start, end, speaker


def _number(value: Any) -> float:
    """A value as a number, NaN for what is none."""
    return float(value) if isinstance(value, SupportsFloat) and not isinstance(value, bool) else math.nan


def _out_of_order(starts: Sequence[float]) -> int:
    """How many of some numbers would have to go for the others to be in order."""
    smallest_ends: list[float] = []  # of the sequences in order of each length
    for start in starts:
        place = bisect_right(smallest_ends, start)
        smallest_ends[place : place + 1] = [start]
    return len(starts) - len(smallest_ends)
