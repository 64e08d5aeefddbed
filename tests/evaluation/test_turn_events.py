"""The events of dGSLM in laid-out speech, and their numbers."""

import numpy as np
import pytest

from hf_moshi_ttt.evaluation.turn_events import event_numbers, find_events, inter_pausal_units

USER = np.array([[0.0, 1.0], [1.15, 2.0], [2.5, 3.0], [7.0, 8.0]])
MODEL = np.array([[3.4, 5.0], [6.0, 7.5]])


def test_units_are_divided_by_more_than_200_ms() -> None:
    assert inter_pausal_units(USER).tolist() == [[0.0, 2.0], [2.5, 3.0], [7.0, 8.0]]
    assert len(inter_pausal_units(np.array([[0.0, 1.0], [1.2, 2.0]]))) == 1
    assert len(inter_pausal_units(np.array([[0.0, 1.0], [1.21, 2.0]]))) == 2


def test_every_kind_of_event_is_found() -> None:
    found = {kind: intervals.tolist() for kind, intervals in find_events(USER, MODEL).items()}
    assert found == {
        "ipu": [[0.0, 2.0], [2.5, 3.0], [3.4, 5.0], [6.0, 7.5], [7.0, 8.0]],
        "pause": [[2.0, 2.5], [5.0, 6.0]],
        "gap": [[3.0, 3.4]],
        "overlap": [[7.0, 7.5]],
    }


def test_silence_between_speakers_that_stop_together_is_a_pause() -> None:
    found = find_events(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[0.5, 1.0]]))
    assert found["pause"].tolist() == [[1.0, 2.0]] and len(found["gap"]) == 0


@pytest.mark.parametrize("user", [np.zeros((0, 2)), USER])
def test_a_silent_side_has_neither_gaps_nor_overlaps(user: np.ndarray) -> None:
    found = find_events(user, np.zeros((0, 2)))
    assert len(found["gap"]) == len(found["overlap"]) == 0 and len(found["ipu"]) == len(inter_pausal_units(user))


def test_numbers_are_a_minutes_and_absent_without_events() -> None:
    numbers = event_numbers([find_events(USER, MODEL)] * 2, 60.0)
    assert (numbers["ipu_per_min"], numbers["gap_per_min"]) == (10, 2)
    assert numbers["gap_median_sec"] == pytest.approx(0.4) and numbers["pause_sec_per_min"] == pytest.approx(3.0)
    assert numbers["pause_p90_sec"] == pytest.approx(1.0)
    silent = event_numbers([find_events(np.zeros((0, 2)), np.zeros((0, 2)))], 60.0)
    assert silent["overlap_per_min"] == 0 and not [key for key in silent if key.endswith(("median_sec", "p90_sec"))]
