"""Gaps and differences of made-up losses have the known values, and intervals hold the truth as often as they say."""

import numpy as np
import pytest

from hf_moshi_ttt.proof.gaps import Interval, difference, gap_closed


def noisy(mean: float, generator: np.random.Generator, seeds: int = 3, by_seed: float = 0.1) -> np.ndarray:
    """Losses `[S, 64]` with luck of the seed, and of the sequence."""
    return mean + by_seed * generator.normal(size=(seeds, 1)) + 0.3 * generator.normal(size=(1, 64))


def test_the_gap_is_the_share_of_the_headroom() -> None:
    static, full, arm = np.full((2, 4), 3.0), np.full((2, 4), 1.0), np.full((2, 4), 1.5)
    found = gap_closed(arm, static, full, 0.1)
    assert found.headroom == Interval(2, 2, 2, 2, 4) and found.closed == Interval(0.75, 0.75, 0.75, 2, 4)
    assert str(found) == "75% [75%, 75%]"
    worse = gap_closed(static + 1, static, full, 0.1).closed
    assert worse is not None and worse.value == -0.5


@pytest.mark.parametrize(("headroom", "spread"), [(0.09, 0.0), (-1.0, 0.0), (0.2, 3.0)])
def test_without_headroom_there_is_no_ratio(headroom: float, spread: float) -> None:
    full = np.ones((2, 6)) + spread * np.array([1, -1, 1, -1, 1, -1])
    found = gap_closed(np.full((2, 6), 1.0), np.full((2, 6), 1.0 + headroom), full, 0.1)
    assert found.closed is None and str(found).startswith("no headroom (")
    assert found.headroom.value == pytest.approx(headroom)


def test_what_arms_share_is_no_luck_of_their_difference() -> None:
    generator = np.random.default_rng(0)
    base = noisy(2.0, generator)
    found = difference(base - 0.25, base)
    assert found.value == pytest.approx(-0.25) and found.low == pytest.approx(-0.25)
    assert found.high == pytest.approx(-0.25) and (found.seeds, found.sequences) == (3, 64)


def test_one_seed_has_an_interval_over_sequences_and_one_sequence_none() -> None:
    values = np.random.default_rng(0).normal(size=(1, 100))
    found = difference(values, np.zeros((1, 100)))
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.984 * values.std(ddof=1) / 10, rel=0.06)
    assert difference(np.ones((1, 1)), np.zeros((1, 1))) == Interval(1, None, None, 1, 1)


@pytest.mark.parametrize("by_seed", [0.0, 0.05, 0.3])
def test_intervals_hold_the_truth(by_seed: float) -> None:
    """Whether the luck of seeds or that of sequences is the larger one; with three seeds of each arm."""
    generator, held, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        arm, static, full = (noisy(mean, generator, by_seed=by_seed) for mean in (1.5, 3.0, 1.0))
        closed = gap_closed(arm, static, full, 0.1).closed
        held += closed is not None and closed.low is not None and closed.low <= 0.75 <= (closed.high or 0)
    assert 0.92 * trials <= held
