"""A model against a baseline on the same recordings and positions, and what the difference says, in words."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .loss_curve import Estimate, bin_losses, curve, mean_beyond, slope_per_1000_frames

_ROUNDING_NATS = 1e-4  # two readings of the same losses differ by up to this much


def compare(
    losses_RT: Sequence[np.ndarray],
    baseline_RT: Sequence[np.ndarray],
    window_frames: int,
    bin_frames: int,
    subject: str = "memory",
) -> dict[str, Any]:
    """Loss less the baseline's, paired; negative is better than the baseline.

    Args:
        window_frames: the longer of the two attention windows.
        subject: what the model has and the baseline has not, for the verdict.

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
    result: dict[str, Any] = {"window_frames": window_frames, "verdict": verdict(beyond, subject)}
    result |= {} if beyond is None else {"beyond_window": asdict(beyond)}
    result |= {} if slope is None else {"slope": asdict(slope)}
    return {**result, "curve": curve(binned, bin_frames)}


def verdict(beyond: Estimate | None, subject: str = "memory") -> str:
    """What a paired difference beyond the window says."""
    if beyond is None:
        return "cannot be told: no recording is longer than the attention window"
    if beyond.low is None or beyond.high is None:
        return f"cannot be told: {beyond.value:+.4f} nats beyond the window, but n=1 recording"
    said = f"{beyond.value:+.4f} nats beyond the window [{beyond.low:+.4f}, {beyond.high:+.4f}], n={beyond.recordings}"
    if beyond.high < 0 and beyond.value < -_ROUNDING_NATS:
        return f"{subject} helps: {said}"
    if beyond.low > 0 and beyond.value > _ROUNDING_NATS:
        return f"{subject} hurts: {said}"
    return f"cannot be told: {said}"
