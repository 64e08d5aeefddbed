"""The benchmark's questions are known by their files, and its scores follow its rules."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from hf_moshi_ttt.evaluation.full_duplex_bench import (
    BenchItem,
    ItemScore,
    backchannel_distance,
    read_item,
    score_item,
    summarize,
)
from hf_moshi_ttt.evaluation.speech_times import Word

from ..fixtures.planted_conversations import write_bench

SILENT = np.zeros((0, 2))


def item(task: str | None, subset: str = "x") -> BenchItem:
    return BenchItem(Path("x/1"), subset, task, (2.0, 5.0))


def spoken(*spans: tuple[float, float]) -> np.ndarray:
    return np.array(spans).reshape(-1, 2)


def words(count: int, first: float = 3.0, step: float = 0.2) -> list[Word]:
    return [Word("a", first + step * place, first + step * place + 0.1) for place in range(count)]


def test_questions_are_known_by_their_files(tmp_path: Path) -> None:
    found = {subset: read_item(folder) for subset, folder in write_bench(tmp_path).items()}
    assert {subset: (one.subset, one.task, one.times_sec) for subset, one in found.items()} == {
        "candor_pause_handling": ("candor_pause_handling", "pause", (0.4, 0.8)),
        "candor_turn_taking": ("candor_turn_taking", "turn_taking", (0.8, 0.9)),
        "synthetic_user_interruption": ("synthetic_user_interruption", "interruption", (0.4, 0.8)),
        "icc_backchannel": ("icc_backchannel", "backchannel", None),
        "user_backchannel": ("user_backchannel", "overlap", (0.4, 0.8)),
    }
    (tmp_path / "other" / "1").mkdir(parents=True)
    assert read_item(tmp_path / "other" / "1").task is None


@pytest.mark.parametrize("text", [
    "", "{}", "[]", '[{"timestamp": [1]}]', '{"timestamps": ["a", 2]}', '{"timestamps": [NaN, 2]}',
    '{"timestamps": [0, Infinity]}', '{"timestamps": [3, 2]}', '{"timestamps": [-1, 2]}',
])  # fmt: skip
def test_annotations_without_times_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "pause.json").write_text(text)
    with pytest.raises(ValueError, match=r"pause.json: no time stamps \[start, end\]"):
        read_item(tmp_path)


@pytest.mark.parametrize(
    ("speech", "said", "took", "delay"),
    [
        (SILENT, None, False, None), (spoken((3, 3.9)), None, False, None), (spoken((3, 4)), None, True, 1.0),
        (spoken((1, 1.2), (2.5, 2.6)), None, True, 0.0), (spoken((3, 3.5)), words(3), False, None),
        (spoken((3, 3.5)), words(4), True, 1.0), (spoken((9, 12)), [], False, None),
        (spoken((3, 3.5)), words(2, step=0.9), True, 1.0),
    ],
)  # fmt: skip
def test_takeovers_are_a_second_or_four_words(
    speech: np.ndarray, said: list[Word] | None, took: bool, delay: float | None
) -> None:
    found = score_item(item("turn_taking"), speech, 10.0, said)
    assert found.takeover is took and found.delay_sec == (None if delay is None else pytest.approx(delay))
    pause = score_item(item("pause"), speech, 10.0, said)
    assert pause.takeover is took and pause.delay_sec is None


def test_an_interruption_is_judged_after_its_end() -> None:
    assert score_item(item("interruption"), spoken((1, 4.9)), 10.0) == ItemScore(takeover=False)
    assert score_item(item("interruption"), spoken((1, 6.5)), 10.0) == ItemScore(takeover=True, delay_sec=0.0)
    found = score_item(item("interruption"), spoken((1, 3), (5.4, 8)), 10.0)
    assert found.takeover and found.delay_sec == pytest.approx(0.4)
    assert score_item(item("interruption"), spoken((1, 8)), 10.0, words(9)) == ItemScore(takeover=False)


@pytest.mark.parametrize(
    ("speech", "said", "took", "count"),
    [
        (SILENT, None, False, 0), (spoken((1, 1.5), (4, 4.9)), None, False, 2),
        (spoken((1, 1.5), (4, 5)), None, True, 1),
        (spoken((3, 3.5)), words(3), True, 0), (spoken((3, 3.5)), words(2), False, 1),
    ],
)  # fmt: skip
def test_backchannels_are_below_a_second_and_of_two_words(
    speech: np.ndarray, said: list[Word] | None, took: bool, count: int
) -> None:
    found = score_item(item("backchannel"), speech, 10.0, said, [1.0] * 20)
    assert (found.takeover, found.backchannels_per_sec) == (took, count / 10)
    assert found.distance is not None and (found.distance == 1.0) == (count == 0)
    assert score_item(item("backchannel"), speech, 10.0, said).distance is None


def test_the_distance_is_that_of_windows_of_200_ms() -> None:
    listeners = np.zeros(6)
    listeners[5] = 1.0  # the last of 0, 0.2, ..., 1.0 s
    assert backchannel_distance(spoken((1.0, 1.1)), 1.05, listeners) == pytest.approx(0.0, abs=1e-4)
    opposite = backchannel_distance(spoken((0.0, 0.1)), 1.05, listeners)
    assert opposite == pytest.approx(np.sqrt(np.log(2)), abs=1e-4)
    expected = jensenshannon([1e-10, 1 + 1e-10, 1 + 1e-10, 1e-10, 1e-10, 1e-10], [1 / 6] * 6)
    assert backchannel_distance(spoken((0.3, 0.5)), 1.05, [1.0] * 6) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("speech", "at_start", "stopped", "stop", "response"),
    [
        (SILENT, False, None, [], []), (spoken((1, 3)), True, True, [1.0], []), (spoken((1, 6)), True, False, [], []),
        (spoken((1, 1.9)), False, None, [], []), (spoken((1, 3), (5.5, 7)), True, True, [1.0], [0.5]),
        (spoken((1, 3), (3.4, 6)), True, False, [], []),
    ],
)  # fmt: skip
def test_overlaps_are_stopped_at_and_answered(
    speech: np.ndarray, at_start: bool, stopped: bool | None, stop: list[float], response: list[float]
) -> None:
    found = score_item(item("overlap"), speech, 10.0)
    assert (found.spoke_at_overlap, found.stopped, found.responded) == (at_start, stopped, bool(response))
    assert (found.stop_delays_sec, found.response_delays_sec) == (stop, response)


def test_subsets_are_summed_up_and_what_is_not_asked_is_absent() -> None:
    took, waited = ItemScore(takeover=True, delay_sec=0.5), ItemScore(takeover=False)
    found = summarize(
        [(item("turn_taking", "b"), took)] * 3 + [(item("turn_taking", "b"), waited), (item(None, "a"), ItemScore())]
    )
    assert list(found) == ["a", "b"] and found["a"] == {"items": 1}
    assert found["b"]["takeover_rate"] == 0.75 and found["b"]["takeover_rate_count"] == 4
    assert (found["b"]["delay_median_sec"], found["b"]["delay_mean_sec"], found["b"]["delay_count"]) == (0.5, 0.5, 3)
    assert json.dumps(found) and "stop_rate" not in found["b"]
