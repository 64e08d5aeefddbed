"""When somebody speaks: intervals `[N, 2]` in seconds, and words with their times."""

from typing import NamedTuple

import numpy as np


class Word(NamedTuple):
    """A word and when it begins and ends, in seconds; in a text row it ends with its last token."""

    text: str
    start_sec: float
    end_sec: float


def intervals_of(is_on_N: np.ndarray, step_sec: float) -> np.ndarray:
    """The runs of True in steps of equal length, `[N, 2]` in seconds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_on_N, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2) * step_sec


def joined(intervals_N2: np.ndarray, longest_gap_sec: float) -> np.ndarray:
    """Intervals in any order, with gaps up to this length filled (within 1 microsecond), in order and apart."""
    if len(intervals_N2) == 0:
        return np.zeros((0, 2))
    ordered = intervals_N2[np.argsort(intervals_N2[:, 0], kind="stable")]
    reached = np.maximum.accumulate(ordered[:, 1])
    first = np.flatnonzero(np.concatenate([[True], ordered[1:, 0] - reached[:-1] > longest_gap_sec + 1e-6]))
    last = np.concatenate([first[1:] - 1, [len(ordered) - 1]])
    return np.stack([ordered[first, 0], reached[last]], axis=1)


def overlaps(first_N2: np.ndarray, second_N2: np.ndarray) -> np.ndarray:
    """Where both are on, `[N, 2]`, of two lists of intervals in order and apart."""
    starts = np.maximum(first_N2[:, None, 0], second_N2[None, :, 0])
    ends = np.minimum(first_N2[:, None, 1], second_N2[None, :, 1])
    where = ends > starts
    both = np.stack([starts[where], ends[where]], axis=1)
    return both[np.argsort(both[:, 0], kind="stable")]
