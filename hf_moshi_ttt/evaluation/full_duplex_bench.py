"""Full-Duplex-Bench v1 and v1.5: what each of its folders asks, and the scores of `output.wav` that need no judge.

Lin et al. 2025, arXiv 2503.04721 and 2507.23159; thresholds and windows as in the evaluation scripts of
github.com/DanielLin94144/Full-Duplex-Bench. Which question a folder asks is known by its files:

| task           | known by           | scored                                                                 |
| -------------- | ------------------ | ---------------------------------------------------------------------- |
| `pause`        | `pause.json`       | takeover anywhere in the output                                        |
| `turn_taking`  | `turn_taking.json` | takeover; delay from the end of the user's turn, the first time stamp  |
| `interruption` | `interrupt.json`   | takeover after the interruption, its second time stamp; delay from it  |
| `backchannel`  | name of the folder | takeover, backchannels a second, Jensen-Shannon distance to listeners  |
| `overlap`      | `metadata.json`    | v1.5, with the overlap's two time stamps: stop delay, response delay   |

A takeover is speech whose first and last word are 1 s or more apart, or of more than 3 words; without words, voice
activity gives the span. In the backchannel task it is any segment of 1 s or more or of more than 2 words. Their script
for this task differs in three points: the last segment decides alone, segments of up to 3 s count as backchannels, and
a `wav` is read as 16 kHz whatever its rate, which makes segments of 24 kHz half as long again. In v1.5 the model's
speech is joined over silences of 0.5 s, as there; a stop delay runs from the overlap's start to the end of the speech
that it met, where that ends during the overlap. Their script lists every overlap of a file instead, wherever it lies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import jensenshannon

from ..data.text_files import read_json
from .speech_times import Word, joined
from .turn_outcomes import is_backchannel, is_takeover
from .turn_statistics import delay_keys, rate_keys

V1_TASKS = {"pause.json": "pause", "turn_taking.json": "turn_taking", "interrupt.json": "interruption"}
BACKCHANNEL_WINDOW_SEC = 0.2
MODEL_SILENCE_SEC = 0.5
_EPSILON = 1e-10
_TIME_INDEX = {"turn_taking": 0, "interruption": 1}


@dataclass(frozen=True)
class BenchItem:
    """One folder of the benchmark.

    Args:
        subset: the folder above it, such as `candor_pause_handling`.
        task: one of the table's, None where the files name none.
        times_sec: the annotation's time stamps.
    """

    folder: Path
    subset: str
    task: str | None
    times_sec: tuple[float, float] | None = None


@dataclass
class ItemScore:
    """What one output shows; None and empty where the task does not ask or nothing happened."""

    takeover: bool | None = None
    delay_sec: float | None = None
    backchannels_per_sec: float | None = None
    distance: float | None = None
    spoke_at_overlap: bool | None = None
    stopped: bool | None = None
    responded: bool | None = None
    stop_delays_sec: list[float] = field(default_factory=list)
    response_delays_sec: list[float] = field(default_factory=list)


def read_item(folder: Path) -> BenchItem:
    """The question that a folder asks.

    Raises:
        ValueError: an annotation that cannot be read.
    """
    subset = folder.parent.name
    for name, task in V1_TASKS.items():
        if (folder / name).is_file():
            return BenchItem(folder, subset, task, _times(folder / name))
    if (folder / "metadata.json").is_file():
        return BenchItem(folder, subset, "overlap", _times(folder / "metadata.json"))
    return BenchItem(folder, subset, "backchannel" if "backchannel" in subset else None)


def _times(path: Path) -> tuple[float, float]:
    try:
        content = read_json(path)
        stamps = content["timestamps"] if isinstance(content, dict) else content[0]["timestamp"]
        start, end = (float(stamp) for stamp in stamps)
        if not 0 <= start <= end < math.inf:
            raise ValueError(f"{start} s to {end} s is no span of time")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path}: no time stamps [start, end] ({type(error).__name__}: {error}).") from error
    return start, end


def score_item(
    item: BenchItem,
    model_N2: np.ndarray,
    duration_sec: float,
    words: Sequence[Word] | None = None,
    listeners: Sequence[float] | None = None,
) -> ItemScore:
    """Scores one output.

    Args:
        model_N2: speech in `output.wav`.
        words: the model's, None where unknown.
        listeners: for the backchannel task, how often people gave one in each part of the recording.
    """
    if item.task == "backchannel":
        return _score_backchannels(model_N2, duration_sec, words, listeners)
    if item.task == "overlap" and item.times_sec is not None:
        return _score_overlap(item.times_sec, model_N2)
    if item.task is None:
        return ItemScore()
    asked_sec = 0.0 if item.times_sec is None or item.task == "pause" else item.times_sec[_TIME_INDEX[item.task]]
    after_sec = asked_sec if item.task == "interruption" else 0.0
    span = _span(model_N2, words, after_sec)
    if span is None:
        return ItemScore(takeover=False)
    start, end, count = span
    took = is_takeover(end - start, count)
    delay = max(0.0, start - asked_sec) if took and item.task != "pause" else None
    return ItemScore(takeover=took, delay_sec=delay)


def _span(
    speech_N2: np.ndarray, words: Sequence[Word] | None, after_sec: float
) -> tuple[float, float, int | None] | None:
    """First start and last end of what is said after a time, and how many words; None for silence."""
    if words is not None:
        later = [word for word in words if word.start_sec >= after_sec]
        return (later[0].start_sec, later[-1].end_sec, len(later)) if later else None
    later_N2 = np.maximum(speech_N2[speech_N2[:, 1] > after_sec], after_sec)
    return (float(later_N2[0, 0]), float(later_N2[-1, 1]), None) if len(later_N2) else None


def _score_backchannels(
    speech_N2: np.ndarray, duration_sec: float, words: Sequence[Word] | None, listeners: Sequence[float] | None
) -> ItemScore:
    counts = [None if words is None else _words_touching(words, *part) for part in speech_N2]
    short = np.array([is_backchannel(e - s, n) for (s, e), n in zip(speech_N2, counts, strict=True)], bool)
    found = speech_N2[short]
    distance = None if listeners is None else backchannel_distance(found, duration_sec, listeners)
    return ItemScore(takeover=not bool(short.all()), backchannels_per_sec=len(found) / duration_sec, distance=distance)


def _words_touching(words: Sequence[Word], start_sec: float, end_sec: float) -> int:
    return sum(word.start_sec <= end_sec and word.end_sec >= start_sec for word in words)


def backchannel_distance(backchannels_N2: np.ndarray, duration_sec: float, listeners: Sequence[float]) -> float:
    """The Jensen-Shannon distance (natural logarithm, 0 to 0.83) of when backchannels come; 1 without any, as there.

    Args:
        listeners: the distribution over equal parts of the recording, such as a list of `icc_gt_distribution.json`.
    """
    if len(backchannels_N2) == 0:
        return 1.0
    counts = np.full(int(duration_sec / BACKCHANNEL_WINDOW_SEC) + 1, _EPSILON)
    for start, end in backchannels_N2:
        counts[int(start / BACKCHANNEL_WINDOW_SEC) : int(end / BACKCHANNEL_WINDOW_SEC) + 1] += 1
    places = np.linspace(0, 1, len(counts))
    expected = np.interp(places, np.linspace(0, 1, len(listeners)), np.asarray(listeners, np.float64))
    return float(jensenshannon(counts, expected))


def _score_overlap(times_sec: tuple[float, float], model_N2: np.ndarray) -> ItemScore:
    """The model's speech at the overlap's start, whether and when it stopped, and the first answer after its end."""
    start, end = times_sec
    model = joined(model_N2, MODEL_SILENCE_SEC)
    speaking = model[(model[:, 0] < start) & (model[:, 1] > start)]
    after = model[model[:, 0] > end]
    score = ItemScore(spoke_at_overlap=bool(len(speaking)), responded=bool(len(after)))
    if len(speaking):
        score.stopped = bool(speaking[0, 1] < end)
        score.stop_delays_sec = [float(speaking[0, 1] - start)] if score.stopped else []
    if len(after):
        score.response_delays_sec = [float(after[0, 0] - end)]
    return score


def summarize(scores: Sequence[tuple[BenchItem, ItemScore]]) -> dict[str, dict[str, Any]]:
    """The numbers of each subset, rates with Wilson intervals; what a subset does not ask is absent."""
    subsets: dict[str, list[ItemScore]] = {}
    for item, score in scores:
        subsets.setdefault(item.subset, []).append(score)
    return {name: _numbers(subsets[name]) for name in sorted(subsets)}


def _numbers(scores: list[ItemScore]) -> dict[str, Any]:
    numbers: dict[str, Any] = {"items": len(scores)}
    for name, key in (
        ("takeover_rate", "takeover"),
        ("spoke_at_overlap_rate", "spoke_at_overlap"),
        ("stop_rate", "stopped"),
        ("response_rate", "responded"),
    ):
        known = [getattr(score, key) for score in scores if getattr(score, key) is not None]
        numbers |= rate_keys(name, sum(known), len(known))
    numbers |= delay_keys("delay", [[score.delay_sec] for score in scores if score.delay_sec is not None])
    numbers |= delay_keys("stop_delay", [score.stop_delays_sec for score in scores])
    numbers |= delay_keys("response_delay", [score.response_delays_sec for score in scores])
    for name, key in (("delay_mean_sec", "delay_sec"), ("backchannels_per_sec", "backchannels_per_sec"),
                      ("backchannel_distance", "distance")):  # fmt: skip
        known = [getattr(score, key) for score in scores if getattr(score, key) is not None]
        numbers |= {name: float(np.mean(known))} if known else {}
    return numbers
