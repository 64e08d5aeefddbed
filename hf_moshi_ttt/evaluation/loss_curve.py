"""Loss as a function of position: bins, slopes and bootstrap intervals over recordings, on plain numpy arrays.

Positions are frames of 80 ms since the start of a recording; 1,000 frames are 80 s. Losses are nats. A position that a
recording does not reach, or at which a codebook has no prediction, is NaN and is left out of every statistic.

Every statistic here is a sum over recordings divided by another one, and recordings are what is resampled. Percentiles
of a bootstrap are too narrow for few recordings: with 8 recordings of different lengths they held
the true slope in 86 of 100 trials. So their distance from the estimate is widened (Hesterberg 2015, "What teachers
should know about the bootstrap"): by Student's t over the normal's, for Kish's effective number of recordings, and by
recordings' residuals when they are left out over those when they are not. The slope then is held in 94 to 98 of 100.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000
LEAST_EFFECTIVE = 1.5
"""Kish's effective number of recordings below which there is no interval: Student's t has no bounds worth telling."""
_SEED = 0


@dataclass
class Estimate:
    """A number with its bootstrap interval over `recordings`; the interval is None where one of them makes up nearly
    all of it, as a single one does."""

    value: float
    low: float | None
    high: float | None
    recordings: int

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{interval} (n={self.recordings})"

    def keys(self, name: str) -> dict[str, Any]:
        """As flat keys: `name`, `name_interval` where there is one, and `name_recordings`."""
        keys: dict[str, Any] = {name: self.value, f"{name}_recordings": self.recordings}
        if self.low is not None:
            keys[f"{name}_interval"] = [self.low, self.high]
        return keys


def headline(losses_QT: np.ndarray) -> np.ndarray:
    """The mean over codebooks at each frame, `[T]`; NaN where a codebook has no prediction."""
    return losses_QT.mean(0)


def weighted(losses_QT: np.ndarray, weights_Q: Sequence[float]) -> np.ndarray:
    """The mean over codebooks with the weights of training, `[T]`."""
    return np.average(losses_QT, axis=0, weights=weights_Q)


def bin_losses(losses_RT: Sequence[np.ndarray], bin_frames: int) -> np.ndarray:
    """Means over bins of `bin_frames` positions for each recording, `[R, bins]`; NaN where a bin is not whole.

    Args:
        losses_RT: one array `[T]` a recording, of any lengths.

    Raises:
        ValueError: an infinite loss.
    """
    if any(np.isinf(losses).any() for losses in losses_RT):
        raise ValueError("A loss is infinite: the model diverged, and a mean would hide it.")
    count = max((len(losses) for losses in losses_RT), default=0) // bin_frames
    binned = np.full((len(losses_RT), count), np.nan)
    for row, losses in enumerate(losses_RT):
        whole = len(losses) // bin_frames
        parts = np.asarray(losses[: whole * bin_frames], dtype=np.float64).reshape(whole, bin_frames)
        known = np.isfinite(parts).sum(1)
        binned[row, :whole] = np.where(known > 0, np.nansum(parts, 1) / np.maximum(known, 1), np.nan)
    return binned


def estimate_ratio(numerators_R: np.ndarray, denominators_R: np.ndarray) -> Estimate:
    """The sum of the first over the sum of the second, with its interval over recordings."""
    count = len(numerators_R)
    value = float(numerators_R.sum() / denominators_R.sum())
    shares = denominators_R / denominators_R.sum()
    effective = 1 / (shares**2).sum()
    if count < 2 or effective < LEAST_EFFECTIVE:
        return Estimate(value, None, None, count)
    draws = _draws(count)
    deviations = (draws @ numerators_R) / (draws @ denominators_R) - value
    residuals = numerators_R - value * denominators_R
    left_out = residuals / (1 - shares)
    tail = (1 - CONFIDENCE) / 2
    widening = stats.t.ppf(tail, effective - 1) / stats.norm.ppf(tail)
    if residuals.any():
        widening *= np.linalg.norm(left_out) / np.linalg.norm(residuals)
    low, high = value + widening * np.quantile(deviations, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), count)


@lru_cache(maxsize=64)
def _draws(count: int) -> np.ndarray:
    """How often each recording comes in each resample, `[RESAMPLES, R]`."""
    generator = np.random.default_rng(_SEED)
    return generator.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def estimate_mean(values_R: np.ndarray) -> Estimate | None:
    """The mean of the values that are not NaN; None where all are."""
    known = values_R[np.isfinite(values_R)]
    return estimate_ratio(known, np.ones(len(known))) if len(known) else None


def mean_over_recordings(values_B: np.ndarray, recordings_B: Sequence[int] | None) -> Estimate | None:
    """The mean of the pieces' values that are not NaN, its interval over the recordings that the pieces are cut from.

    It is over the pieces where `recordings_B` is None, or names one recording: then it says nothing of others.
    """
    known = np.isfinite(values_B)
    if not known.any():
        return None
    units = drawn_with(None if recordings_B is None else np.asarray(recordings_B)[known], int(known.sum()))
    return estimate_ratio(np.bincount(units, values_B[known]), np.bincount(units).astype(np.float64))


def drawn_with(recordings_B: Sequence[int] | np.ndarray | None, pieces: int) -> np.ndarray:
    """The number of what each piece is drawn with, `[B]`: its recording, or itself where there is but one recording."""
    units = None if recordings_B is None else np.unique(recordings_B, return_inverse=True)[1]
    return np.arange(pieces) if units is None or units.max() == 0 else units


def mean_around(losses_RT: Sequence[np.ndarray], position: int, width_frames: int) -> Estimate | None:
    """Mean over `width_frames` around a position and over the recordings that hold them all; None where none does."""
    span = slice(max(0, position - width_frames // 2), position + (width_frames + 1) // 2)
    whole = [losses[span] for losses in losses_RT if len(losses) >= span.stop]
    return estimate_mean(np.array([np.nanmean(part) for part in whole if np.isfinite(part).any()]))


def slope_per_1000_frames(binned_RN: np.ndarray, bin_frames: int, window_frames: int) -> Estimate | None:
    """Least-squares slope of loss over position beyond the attention window, in nats per 1,000 frames.

    Each recording's own mean is taken out first, so that easy and hard recordings of different lengths do not tilt it.
    None where no recording has two bins beyond the window.
    """
    values = binned_RN[:, _beyond(binned_RN, bin_frames, window_frames)]
    values = values[np.isfinite(values).sum(1) >= 2]
    if len(values) == 0:
        return None
    positions = bin_centres(binned_RN.shape[1], bin_frames)[_beyond(binned_RN, bin_frames, window_frames)] / 1000
    x = np.where(np.isfinite(values), positions, np.nan)
    x = x - np.nanmean(x, 1, keepdims=True)
    y = values - np.nanmean(values, 1, keepdims=True)
    return estimate_ratio(np.nansum(x * y, 1), np.nansum(x * x, 1))


def mean_beyond(binned_RN: np.ndarray, bin_frames: int, window_frames: int) -> Estimate | None:
    """Mean of the recordings' mean losses beyond the attention window; None where no recording is longer than it."""
    beyond = binned_RN[:, _beyond(binned_RN, bin_frames, window_frames)]
    beyond = beyond[np.isfinite(beyond).any(1)]
    return estimate_mean(np.nanmean(beyond, 1)) if beyond.size else None


def bin_centres(count: int, bin_frames: int) -> np.ndarray:
    """In frames."""
    return (np.arange(count) + 0.5) * bin_frames


def _beyond(binned_RN: np.ndarray, bin_frames: int, window_frames: int) -> np.ndarray:
    return np.arange(binned_RN.shape[1]) * bin_frames >= window_frames


def long_context_numbers(
    losses_RT: Sequence[np.ndarray], window_frames: int, bin_frames: int, positions_frames: Sequence[int]
) -> dict[str, Any]:
    """The long-context numbers of one curve; every loss is a mean over `bin_frames` around its position.

    Returns:
        `librilight_samples` (recordings), `librilight_loss_<position>`, `librilight_slope` (nats per 1,000 frames
        beyond the window) and `librilight_loss_beyond_window`, each with `<key>_interval` where there is more than one
        recording (`LEAST_EFFECTIVE`) and `<key>_recordings`. What no recording reaches is absent.

    Raises:
        ValueError: a window, a width or positions that are no whole numbers of frames, or are out of bounds.
    """
    _require_frames("window", window_frames, 0)
    _require_frames("bin_frames", bin_frames, 1)
    for position in positions_frames:
        _require_frames("positions_frames", position, 0)
    binned = bin_losses(losses_RT, bin_frames)
    named = {f"librilight_loss_{short_position(at)}": mean_around(losses_RT, at, bin_frames) for at in positions_frames}
    named["librilight_slope"] = slope_per_1000_frames(binned, bin_frames, window_frames)
    named["librilight_loss_beyond_window"] = mean_beyond(binned, bin_frames, window_frames)
    numbers: dict[str, Any] = {"librilight_samples": len(losses_RT)}
    for name, estimate in named.items():
        numbers |= {} if estimate is None else estimate.keys(name)
    return numbers


def _require_frames(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}: {value!r}, but it must be a whole number of frames of 80 ms, {least} or more.")


def short_position(position: int) -> str:
    """A position in frames as written in a key: `8k` for 8000."""
    return f"{position // 1000}k" if position % 1000 == 0 else str(position)


def curve(binned_RN: np.ndarray, bin_frames: int) -> list[dict[str, Any]]:
    """The mean of each bin that any recording reaches, with its interval, and the bin's centre in frames."""
    points = []
    for centre, values_R in zip(bin_centres(binned_RN.shape[1], bin_frames), binned_RN.T, strict=True):
        estimate = estimate_mean(values_R)
        if estimate is not None:
            points.append({"position_frames": float(centre), **asdict(estimate)})
    return points


def codebook_curves(losses_RQT: Sequence[np.ndarray], bin_frames: int) -> list[list[float | None]]:
    """The mean of each codebook in each bin, `[Q][bins]`; None where no recording reaches it."""
    rows = []
    for codebook in range(len(losses_RQT[0])):
        binned = bin_losses([losses[codebook] for losses in losses_RQT], bin_frames)
        means = [estimate_mean(values_R) for values_R in binned.T]
        rows.append([None if mean is None else mean.value for mean in means])
    return rows
