"""Differences of losses and the gap that an arm closes, with intervals over seeds and sequences.

Losses are arrays `[S, R]`: seeds and test sequences. Every seed is tested on the same sequences, and arms of one seed
are trained on the same frames; so seeds and sequences are both resampled, whole, for all arms together (the bootstrap
of a crossed design: Owen 2007, "The pigeonhole bootstrap"). Of n there are n - 1 drawn, which makes the variance the
unbiased one (Rao and Wu 1988, "Resampling inference with complex survey data"); with three seeds n of n would come out
a third too small. The interval is the estimate and so many standard errors as Student's t says for the effective
degrees of freedom of both together (Satterthwaite 1946). With one seed it holds the luck of the sequences alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A number, its interval, and the seeds and sequences behind it; ends are None where there is one sequence."""

    value: float
    low: float | None
    high: float | None
    seeds: int
    sequences: int

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


def difference(arm_SR: np.ndarray, base_SR: np.ndarray) -> Interval:
    """The mean loss of an arm less that of another one."""
    return _estimate(lambda arm, base: arm - base, arm_SR, base_SR)


def gap_closed(arm_SR: np.ndarray, static_SR: np.ndarray, reference_SR: np.ndarray, headroom_nats: float) -> Gap:
    """(static - arm) / (static - reference), if the divisor is at least `headroom_nats` and its interval above 0."""
    headroom = difference(static_SR, reference_SR)
    if headroom.value < headroom_nats or headroom.low is None or headroom.low <= 0:
        return Gap(headroom, None)
    closed = _estimate(lambda arm, static, best: (static - arm) / (static - best), arm_SR, static_SR, reference_SR)
    return Gap(headroom, closed)


def _estimate(statistic: Callable[..., np.ndarray], *losses_SR: np.ndarray) -> Interval:
    seeds, rows = losses_SR[0].shape
    assert all(losses.shape == (seeds, rows) for losses in losses_SR), [losses.shape for losses in losses_SR]
    value = float(statistic(*(losses.mean() for losses in losses_SR)))
    if rows < 2:
        return Interval(value, None, None, seeds, rows)
    resampled = [_resampled(losses) for losses in losses_SR]
    variances = [float(np.var(statistic(*means))) for means in zip(*resampled, strict=True)]
    parts = [(part, count - 1) for part, count in zip(variances[1:], (seeds, rows), strict=True) if count > 1]
    total, spread = sum(part for part, _ in parts), sum(part**2 / free for part, free in parts)
    if spread == 0:
        return Interval(value, value, value, seeds, rows)
    reach = variances[0] ** 0.5 * stats.t.ppf(0.5 + CONFIDENCE / 2, total**2 / spread)
    return Interval(value, float(value - reach), float(value + reach), seeds, rows)


def _resampled(losses_SR: np.ndarray) -> list[np.ndarray]:
    """Means `[RESAMPLES]` with seeds and sequences drawn, with seeds alone, and with sequences alone."""
    seeds, rows = losses_SR.shape
    by_seed, by_row = _weights(seeds, 0) @ losses_SR, _weights(rows, 1)
    return [(by_seed * by_row).sum(1), by_seed.mean(1), by_row @ losses_SR.mean(0)]


@lru_cache(maxsize=64)
def _weights(count: int, generator_seed: int) -> np.ndarray:
    """Of `count` things the share that each has in each resample, `[RESAMPLES, count]`; a single one always has all."""
    drawn = max(1, count - 1)
    generator = np.random.default_rng(generator_seed)
    return generator.multinomial(drawn, np.full(count, 1 / count), RESAMPLES) / drawn
