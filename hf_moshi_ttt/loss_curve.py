"""Loss as a function of position: bins, slopes and bootstrap intervals over recordings, on plain numpy arrays.

Positions are frames of 80 ms since the start of a recording; 1,000 frames are 80 s. Losses are nats. A position that a
recording does not reach, or at which a codebook has no prediction, is NaN and takes part in nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_RESAMPLES = 1000
_SEED = 0
_CONFIDENCE = 0.95


@dataclass
class Estimate:
    """A number with its bootstrap interval over `recordings`; the interval is None for a single recording."""

    value: float
    low: float | None
    high: float | None
    recordings: int

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4f}, {self.high:.4f}]"
        return f"{self.value:.4f}{interval} (n={self.recordings})"


def bin_losses(losses_RT: Sequence[np.ndarray], bin_frames: int) -> np.ndarray:
    """Means over bins of `bin_frames` positions for each recording, `[R, bins]`; NaN where a bin is not whole.

    Args:
        losses_RT: one array `[T]` a recording, of any lengths.

    Raises:
        ValueError: an infinite loss.
    """
    if any(np.isinf(losses).any() for losses in losses_RT):
        raise ValueError("A loss is infinite: the model diverged, and a mean would hide it.")
    count = max(len(losses) for losses in losses_RT) // bin_frames
    binned = np.full((len(losses_RT), count), np.nan)
    for row, losses in enumerate(losses_RT):
        whole = len(losses) // bin_frames
        parts = losses[: whole * bin_frames].reshape(whole, bin_frames)
        known = np.isfinite(parts).sum(1)
        binned[row, :whole] = np.where(known > 0, np.nansum(parts, 1) / np.maximum(known, 1), np.nan)
    return binned


def bootstrap(statistic: Callable[[np.ndarray], float], rows: np.ndarray) -> Estimate:
    """`statistic` of the rows `[R, ...]`, with the interval of its values over resampled recordings."""
    count = len(rows)
    if count < 2:
        return Estimate(float(statistic(rows)), None, None, count)
    generator = np.random.default_rng(_SEED)
    draws = [statistic(rows[generator.integers(0, count, count)]) for _ in range(_RESAMPLES)]
    low, high = np.nanquantile(draws, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Estimate(float(statistic(rows)), float(low), float(high), count)


def mean_at(binned_RN: np.ndarray, index: int) -> Estimate | None:
    """Mean over the recordings that reach a bin; None where none does."""
    return _mean(binned_RN[:, index])


def mean_around(losses_RT: Sequence[np.ndarray], position: int, width_frames: int) -> Estimate | None:
    """Mean over `width_frames` around a position and over the recordings that hold them all; None where none does."""
    span = slice(max(0, position - width_frames // 2), position + (width_frames + 1) // 2)
    whole = [losses[span] for losses in losses_RT if len(losses) >= span.stop]
    return _mean(np.array([np.nanmean(part) for part in whole if np.isfinite(part).any()]))


def _mean(values_R: np.ndarray) -> Estimate | None:
    known = values_R[np.isfinite(values_R)]
    return bootstrap(lambda values: float(values.mean()), known) if len(known) else None


def slope_per_1000_frames(binned_RN: np.ndarray, bin_frames: int, window_frames: int) -> Estimate | None:
    """Least-squares slope of loss over position beyond the attention window, in nats per 1,000 frames.

    Each recording's own mean is taken out first, so that easy and hard recordings of different lengths do not tilt it.
    None where fewer than two bins lie beyond the window.
    """
    centres = (np.arange(binned_RN.shape[1]) + 0.5) * bin_frames / 1000
    beyond = np.arange(binned_RN.shape[1]) * bin_frames >= window_frames
    values = binned_RN[:, beyond]
    values = values[np.isfinite(values).sum(1) >= 2]
    if len(values) == 0:
        return None
    return bootstrap(lambda rows: _pooled_slope(rows, centres[beyond]), values)


def _pooled_slope(values_RN: np.ndarray, positions_N: np.ndarray) -> float:
    positions = np.where(np.isfinite(values_RN), positions_N, np.nan)
    x = positions - np.nanmean(positions, 1, keepdims=True)
    y = values_RN - np.nanmean(values_RN, 1, keepdims=True)
    return float(np.nansum(x * y) / np.nansum(x * x))


def mean_beyond(binned_RN: np.ndarray, bin_frames: int, window_frames: int) -> Estimate | None:
    """Mean of the recordings' mean losses beyond the attention window; None where no recording is longer than it."""
    beyond = binned_RN[:, np.arange(binned_RN.shape[1]) * bin_frames >= window_frames]
    beyond = beyond[np.isfinite(beyond).any(1)]
    return bootstrap(lambda values: float(values.mean()), np.nanmean(beyond, 1)) if beyond.size else None


def summarize(
    losses_RT: Sequence[np.ndarray], window_frames: int, bin_frames: int, positions: Sequence[int]
) -> dict[str, Any]:
    """The long-context numbers of one model; every loss is a mean over `bin_frames` around its position.

    Returns:
        `librilight_loss_<position>`, `librilight_slope` (nats per 1,000 frames beyond the window) and
        `librilight_loss_beyond_window`, each with its interval where there is one, `librilight_samples`, and the binned
        `curve`. Positions that no recording reaches are absent.
    """
    binned = bin_losses(losses_RT, bin_frames)
    result: dict[str, Any] = {"librilight_samples": len(losses_RT), "bin_frames": bin_frames}
    named = {f"librilight_loss_{_short(at)}": mean_around(losses_RT, at, bin_frames) for at in positions}
    named["librilight_slope"] = slope_per_1000_frames(binned, bin_frames, window_frames)
    named["librilight_loss_beyond_window"] = mean_beyond(binned, bin_frames, window_frames)
    result.update({key: asdict(estimate) for key, estimate in named.items() if estimate is not None})
    result["curve"] = curve(binned, bin_frames)
    return result


def difference(
    losses_RT: Sequence[np.ndarray], baseline_RT: Sequence[np.ndarray], window_frames: int, bin_frames: int
) -> dict[str, Any]:
    """Loss less the baseline's on the same recordings and positions, paired; negative is better than the baseline.

    Raises:
        ValueError: the two are not over the same recordings and positions.
    """
    lengths = [[len(losses) for losses in both] for both in (losses_RT, baseline_RT)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"Recordings of {lengths[0]} frames cannot be paired with recordings of {lengths[1]} frames.")
    paired = [own - other for own, other in zip(losses_RT, baseline_RT, strict=True)]
    binned = bin_losses(paired, bin_frames)
    beyond = mean_beyond(binned, bin_frames, window_frames)
    slope = slope_per_1000_frames(binned, bin_frames, window_frames)
    return {
        "beyond_window": beyond and asdict(beyond),
        "slope": slope and asdict(slope),
        "verdict": verdict(beyond),
        "curve": curve(binned, bin_frames),
    }


def verdict(beyond: Estimate | None) -> str:
    """What a paired difference beyond the window says, in words."""
    if beyond is None or beyond.low is None or beyond.high is None:
        return "cannot be told: fewer than two recordings are longer than the attention window"
    said = f"{beyond.value:+.4f} nats [{beyond.low:+.4f}, {beyond.high:+.4f}], n={beyond.recordings}"
    if beyond.high < 0:
        return f"lower loss than the baseline: {said}"
    if beyond.low > 0:
        return f"higher loss than the baseline: {said}"
    return f"cannot be told from the baseline: {said}"


def curve(binned_RN: np.ndarray, bin_frames: int) -> list[dict[str, Any]]:
    """The mean of each bin with its interval, and the bin's centre in frames."""
    points = []
    for index in range(binned_RN.shape[1]):
        estimate = mean_at(binned_RN, index)
        if estimate is not None:
            points.append({"position_frames": (index + 0.5) * bin_frames, **asdict(estimate)})
    return points


def _short(position: int) -> str:
    return f"{position // 1000}k" if position % 1000 == 0 else str(position)
