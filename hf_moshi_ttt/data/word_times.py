"""Word times of conversations: `{"alignments": [[word, [start_sec, end_sec], speaker], ...]}` beside each audio file.

The format of `kyutai/DailyTalkContiguous`. A further key `labelled_until_sec` says up to where every word is listed;
without it the labels end with the last word, as it is unknown whether what follows is silence or was not transcribed.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAIN_SPEAKER = "SPEAKER_MAIN"
OTHER_SPEAKER = "SPEAKER_USER"
MAX_OVERLAP_SEC = 0.08


@dataclass(frozen=True)
class WordTimes:
    """Words `{word, start_sec, end_sec, speaker}` in order of their starts, and up to where all of them are listed."""

    words: list[dict[str, Any]]
    labelled_until_sec: float


def read_word_times(path: str | Path) -> WordTimes:
    """Reads one file.

    Raises:
        ValueError: another form, no UTF-8, a word that ends before it starts, or words of one speaker that are not in
            order or overlap by more than a frame.
        OSError: the file cannot be read.
    """
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}).") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("alignments"), list):
        raise ValueError(f'{path}: expected {{"alignments": [[word, [start_sec, end_sec], speaker], ...]}}.')
    words = [_read_word(item, path) for item in content["alignments"]]
    _require_order(words, path)
    last_sec = max((word["end_sec"] for word in words), default=0.0)
    until_sec = content.get("labelled_until_sec", last_sec)
    if not isinstance(until_sec, int | float) or not 0 <= until_sec < math.inf:
        raise ValueError(f"{path}: labelled_until_sec={until_sec!r}, but it must be a number of seconds, 0 or more.")
    return WordTimes(sorted(words, key=lambda word: word["start_sec"]), float(until_sec))


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
    return WordTimes(swapped, times.labelled_until_sec if others else 0.0)


def _read_word(item: Any, path: str | Path) -> dict[str, Any]:
    try:
        word, (start, end), speaker = item
        start_sec, end_sec = float(start), float(end)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected [word, [start_sec, end_sec], speaker], got {item!r}.") from error
    if not isinstance(word, str) or not isinstance(speaker, str):
        raise ValueError(f"{path}: expected [word, [start_sec, end_sec], speaker], got {item!r}.")
    if not 0 <= start_sec <= end_sec < math.inf:
        raise ValueError(f"{path}: {word!r} from {start_sec} s to {end_sec} s is no span of time.")
    return {"word": word, "start_sec": start_sec, "end_sec": end_sec, "speaker": speaker}


def _require_order(words: list[dict[str, Any]], path: str | Path) -> None:
    last: dict[str, dict[str, Any]] = {}
    for word in words:
        before = last.get(word["speaker"])
        if before is not None and word["start_sec"] < before["start_sec"]:
            problem = "is not in order of time"
        elif before is not None and word["start_sec"] < before["end_sec"] - MAX_OVERLAP_SEC:
            problem = "overlaps"
        else:
            last[word["speaker"]] = word
            continue
        raise ValueError(
            f"{path}: {word['speaker']}'s {word['word']!r} at {word['start_sec']} s {problem} "
            f"({before['word']!r} from {before['start_sec']} s to {before['end_sec']} s stands before it)."
        )
