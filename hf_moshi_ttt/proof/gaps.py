"""Differences of losses and the gap that an arm closes, with intervals over seeds and recordings.

Losses are arrays `[S, R]`: seeds and test sequences. Every seed is tested on the same sequences, and arms of one seed
are trained on the same frames; so seeds and sequences are both resampled, whole, for all arms together (the bootstrap
of a crossed design: Owen 2007, "The pigeonhole bootstrap"). Sequences that are cut from one recording are alike: they
are drawn together, recording by recording. Of n there are n - 1 drawn, which makes the variance the unbiased one (Rao
and Wu 1988, "Resampling inference with complex survey data"); with three seeds n of n would come out a third too small.
The interval is the estimate and so many standard errors as Student's t says for the effective degrees of freedom of
both together (Satterthwaite 1946). With one seed it holds the luck of the recordings alone, with one recording that of
its pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from ..evaluation.loss_curve import drawn_with

CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A number, its interval, and what is behind it; ends are None where there is one sequence.

    Args:
        recordings: how many the sequences are cut from; None for random frames.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    sequences: int
    recordings: int | None = None

    def __str__(self) -> str:
        return f"{self.value:+.3f}" + ("" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]")


@dataclass(frozen=True)
class Gap:
    """What there is to gain, and the share of it that an arm gains: None where there is too little."""

    headroom: Interval
    closed: Interval | None

    def __str__(self) -> str:
        if self.closed is None:
            return f"no headroom ({self.headroom})"
        value, low, high = self.closed.value, self.closed.low, self.closed.high
        ends = "" if low is None or high is None else f" [{100 * low:.0f}%, {100 * high:.0f}%]"
        return f"{100 * value:.0f}%{ends}"


@dataclass(frozen=True, eq=False)
class Rows:
    """The losses of an arm.

    Args:
        losses_SR: by seed and sequence.
        recordings_R: the number of the recording that each sequence is cut from; None for random frames.
    """

    losses_SR: np.ndarray
    recordings_R: Sequence[int] | None = None

    @property
    def units_R(self) -> np.ndarray:
        """What each sequence is drawn with: its recording, or itself where there is no other recording."""
        return drawn_with(self.recordings_R, self.losses_SR.shape[1])

    @property
    def recordings(self) -> int | None:
        """How many there are."""
        return None if self.recordings_R is None else len(set(self.recordings_R))


def difference(arm: Rows, base: Rows) -> Interval:
    """The mean loss of an arm less that of another one."""
    return _estimate(lambda arm, base: arm - base, arm, base)


def gap_closed(arm: Rows, static: Rows, reference: Rows, headroom_nats: float) -> Gap:
    """(static - arm) / (static - reference), if the divisor is at least `headroom_nats` and its interval above 0.

    Args:
        reference: of the same sequences, or of another test's.
    """
    headroom = difference(static, reference)
    if headroom.value < headroom_nats or headroom.low is None or headroom.low <= 0:
        return Gap(headroom, None)
    return Gap(headroom, _estimate(lambda arm, static, best: (static - arm) / (static - best), arm, static, reference))


def _estimate(statistic: Callable[..., np.ndarray], *arms: Rows) -> Interval:
    seeds, sequences = arms[0].losses_SR.shape
    assert all(arm.losses_SR.shape == (seeds, sequences) for arm in arms), [arm.losses_SR.shape for arm in arms]
    value, behind = float(statistic(*(arm.losses_SR.mean() for arm in arms))), (seeds, sequences, arms[0].recordings)
    if sequences < 2:
        return Interval(value, None, None, *behind)
    units_R = arms[0].units_R
    resampled = [_resampled(arm, 1 if np.array_equal(arm.units_R, units_R) else 2) for arm in arms]
    variances = [float(np.var(statistic(*means))) for means in zip(*resampled, strict=True)]
    counts = (seeds, int(units_R.max()) + 1)
    parts = [(part, count - 1) for part, count in zip(variances[1:], counts, strict=True) if count > 1]
    total, spread = sum(part for part, _ in parts), sum(part**2 / free for part, free in parts)
    if spread == 0:
        return Interval(value, value, value, *behind)
    reach = variances[0] ** 0.5 * stats.t.ppf(0.5 + CONFIDENCE / 2, total**2 / spread)
    return Interval(value, float(value - reach), float(value + reach), *behind)


def _resampled(arm: Rows, generator_seed: int) -> list[np.ndarray]:
    """Means `[RESAMPLES]` with seeds and units drawn, with seeds alone, and with units alone."""
    units_R = arm.units_R
    by_seed, by_row = _weights(len(arm.losses_SR), 0) @ arm.losses_SR, _weights(units_R.max() + 1, generator_seed)
    by_row = by_row[:, units_R] / by_row[:, units_R].sum(1, keepdims=True)
    return [(by_seed * by_row).sum(1), by_seed.mean(1), by_row @ arm.losses_SR.mean(0)]


@lru_cache(maxsize=64)
def _weights(count: int, generator_seed: int) -> np.ndarray:
    """Of `count` things the share that each has in each resample, `[RESAMPLES, count]`; a single one always has all."""
    drawn = max(1, count - 1)
    generator = np.random.default_rng(generator_seed)
    return generator.multinomial(drawn, np.full(count, 1 / count), RESAMPLES) / drawn
