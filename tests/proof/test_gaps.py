"""Gaps and differences of made-up losses have the known values, and intervals hold the truth as often as they say."""

import numpy as np
import pytest

from hf_moshi_ttt.proof.gaps import Interval, Rows, difference, gap_closed


def noisy(mean: float, generator: np.random.Generator, seeds: int = 3, by_seed: float = 0.1) -> Rows:
    """Losses `[S, 64]` with luck of the seed, and of the sequence."""
    return Rows(mean + by_seed * generator.normal(size=(seeds, 1)) + 0.3 * generator.normal(size=(1, 64)))


def test_the_gap_is_the_share_of_the_headroom() -> None:
    static, full, arm, worst = (Rows(np.full((2, 4), loss)) for loss in (3.0, 1.0, 1.5, 4.0))
    found = gap_closed(arm, static, full, 0.1)
    assert found.headroom == Interval(2, 2, 2, 2, 4) and found.closed == Interval(0.75, 0.75, 0.75, 2, 4)
    assert str(found) == "75% [75%, 75%]"
    worse = gap_closed(worst, static, full, 0.1).closed
    assert worse is not None and worse.value == -0.5


@pytest.mark.parametrize(("headroom", "spread"), [(0.09, 0.0), (-1.0, 0.0), (0.2, 3.0)])
def test_without_headroom_there_is_no_ratio(headroom: float, spread: float) -> None:
    full = np.ones((2, 6)) + spread * np.array([1, -1, 1, -1, 1, -1])
    found = gap_closed(Rows(np.ones((2, 6))), Rows(np.full((2, 6), 1.0 + headroom)), Rows(full), 0.1)
    assert found.closed is None and str(found).startswith("no headroom (")
    assert found.headroom.value == pytest.approx(headroom)


def test_what_arms_share_is_no_luck_of_their_difference() -> None:
    generator = np.random.default_rng(0)
    base = noisy(2.0, generator)
    found = difference(Rows(base.losses_SR - 0.25), base)
    assert found.value == pytest.approx(-0.25) and found.low == pytest.approx(-0.25)
    assert found.high == pytest.approx(-0.25) and (found.seeds, found.sequences) == (3, 64)


def test_one_seed_has_an_interval_over_sequences_and_one_sequence_none() -> None:
    values = np.random.default_rng(0).normal(size=(1, 100))
    found = difference(Rows(values), Rows(np.zeros((1, 100))))
    assert found.low is not None and found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.984 * values.std(ddof=1) / 10, rel=0.06)
    assert difference(Rows(np.ones((1, 1))), Rows(np.zeros((1, 1)))) == Interval(1, None, None, 1, 1)


@pytest.mark.parametrize("by_seed", [0.0, 0.05, 0.3])
def test_intervals_hold_the_truth(by_seed: float) -> None:
    """Whether the luck of seeds or that of sequences is the larger one; with three seeds of each arm."""
    generator, held, trials = np.random.default_rng(1), 0, 200
    for _ in range(trials):
        arm, static, full = (noisy(mean, generator, by_seed=by_seed) for mean in (1.5, 3.0, 1.0))
        closed = gap_closed(arm, static, full, 0.1).closed
        held += closed is not None and closed.low is not None and closed.low <= 0.75 <= (closed.high or 0)
    assert 0.92 * trials <= held


def cut_from(recordings_R: np.ndarray, means: list[float], generator: np.random.Generator) -> list[np.ndarray]:
    """Losses `[3, R]` of arms whose differences vary from recording to recording more than from piece to piece."""
    shift_C = generator.normal(size=recordings_R.max() + 1)
    own = [0.1 * generator.normal(size=(1, len(recordings_R))) + 0.02 * generator.normal(size=(3, 1)) for _ in means]
    return [mean * (1 + 0.2 * shift_C[recordings_R]) + luck for mean, luck in zip(means, own, strict=True)]


@pytest.mark.parametrize("is_told", [True, False])
def test_intervals_hold_the_truth_of_other_recordings(is_told: bool) -> None:
    """96 pieces of 8 recordings, not equally many of each; intervals over pieces are far too narrow."""
    generator, held, trials = np.random.default_rng(2), 0, 200
    for _ in range(trials):
        recordings_R = np.sort(generator.integers(8, size=96))
        arm, static = (
            Rows(losses, recordings_R.tolist() if is_told else None)
            for losses in cut_from(recordings_R, [1.0, 3.0], generator)
        )
        found = difference(arm, static)
        assert found.low is not None and found.high is not None
        held += found.low <= -2 <= found.high
    assert held >= 0.9 * trials if is_told else held <= 0.7 * trials


def test_pieces_of_one_recording_speak_of_it_alone() -> None:
    losses = np.random.default_rng(0).normal(size=(2, 40))
    found, expected = (difference(Rows(losses, of), Rows(0 * losses, of)) for of in ([3] * 40, None))
    assert (found.low, found.high, found.recordings) == (expected.low, expected.high, 1)
    assert expected.recordings is None


def test_a_reference_of_another_test_may_be_cut_from_other_recordings() -> None:
    generator = np.random.default_rng(0)
    static, full = (Rows(mean + generator.normal(size=(2, 40)) / 10) for mean in (3.0, 1.0))
    arm = Rows(static.losses_SR - 1, [0, 1, 2, 3] * 10)
    found = gap_closed(arm, Rows(static.losses_SR, [0, 1, 2, 3] * 10), Rows(full.losses_SR, [0, 5] * 20), 0.1)
    assert found.closed is not None and found.closed.value == pytest.approx(0.5, abs=0.02)
    assert found.headroom.recordings == 4
