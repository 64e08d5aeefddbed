"""Intervals are found, joined and overlapped."""

import numpy as np

from hf_moshi_ttt.evaluation.speech_times import intervals_of, joined, overlaps


def test_intervals_are_joined_and_overlapped() -> None:
    steps = np.array([False, True, True, False, True])
    assert intervals_of(steps, 0.5).tolist() == [[0.5, 1.5], [2.0, 2.5]]
    given = np.array([[5.0, 6.0], [0.0, 1.0], [1.2, 2.0], [1.3, 1.4]])
    assert joined(given, 0.2).tolist() == [[0.0, 2.0], [5.0, 6.0]]
    assert joined(given, 0.19).tolist() == [[0.0, 1.0], [1.2, 2.0], [5.0, 6.0]]
    assert joined(np.zeros((0, 2)), 1.0).shape == (0, 2)
    both = overlaps(np.array([[0.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 3.5], [4.0, 5.0]]))
    assert both.tolist() == [[1.0, 2.0], [3.0, 3.5]]
