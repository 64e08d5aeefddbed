"""Rates with Wilson intervals; delays with median, 90th percentile and a bootstrap over conversations.

A Wilson interval treats events as independent. The bootstrap resamples whole conversations, since delays of one
conversation are alike. What has no event has no number.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from .loss_curve import CONFIDENCE

RESAMPLES = 1000


def rate_keys(name: str, count: int, of: int) -> dict[str, Any]:
    """`<name>`, `<name>_interval` (Wilson, 95%) and `<name>_count` (of how many); nothing of none."""
    if of == 0:
        return {}
    found = stats.binomtest(count, of).proportion_ci(CONFIDENCE, "wilson")
    return {name: count / of, f"{name}_interval": [float(found.low), float(found.high)], f"{name}_count": of}


def delay_keys(name: str, delays_sec: Sequence[Sequence[float]]) -> dict[str, Any]:
    """`<name>_median_sec` with its interval over conversations, `<name>_p90_sec`, `<name>_count`; nothing of none.

    Args:
        delays_sec: those of each conversation.
    """
    every = np.concatenate([np.asarray(one, np.float64) for one in delays_sec]) if len(delays_sec) else np.zeros(0)
    if len(every) == 0:
        return {}
    numbers: dict[str, Any] = {
        f"{name}_median_sec": float(np.median(every)),
        f"{name}_p90_sec": float(np.percentile(every, 90)),
        f"{name}_count": len(every),
    }
    interval = over_conversations(len(delays_sec), lambda chosen: median_of(delays_sec, chosen))
    return numbers | ({} if interval is None else {f"{name}_median_sec_interval": interval})


def median_of(delays_sec: Sequence[Sequence[float]], chosen: np.ndarray) -> float:
    """The median over the chosen conversations; NaN where they have no delay."""
    delays = [delay for index in chosen for delay in delays_sec[index]]
    return float(np.median(delays)) if delays else np.nan


def rate_of(counts_R2: np.ndarray, chosen: np.ndarray) -> float:
    """The rate over the chosen conversations, of rows `[events, opportunities]`; NaN without an opportunity."""
    events, of = counts_R2[chosen].sum(0)
    return float(events / of) if of else np.nan


def over_conversations(count: int, statistic: Callable[[np.ndarray], float]) -> list[float] | None:
    """The 95% percentile bootstrap of a statistic of chosen conversations (indices, some of them several times).

    Returns:
        None for fewer than 2 conversations, or where some resamples have no value.
    """
    if count < 2:
        return None
    draws = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    values = np.array([statistic(chosen) for chosen in draws])
    tail = (1 - CONFIDENCE) / 2
    return None if np.isnan(values).any() else np.quantile(values, [tail, 1 - tail]).tolist()
