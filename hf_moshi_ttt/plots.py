"""Pictures of results, drawn from the JSON alone."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .audio import sec_from_frames

_COLOURS = ["#0b6e8f", "#c4552d", "#5b7f2b", "#7a4fa3"]


def plot_loss_by_position(results: dict[str, Any], path: str | Path) -> None:
    """Loss of every model over position with intervals, and below it the paired differences to the baseline.

    Args:
        results: what `scripts/evaluate_long_context.py` writes.
    """
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 7.5), sharex=True, height_ratios=[3, 2], layout="constrained"
    )
    for colour, (name, model) in zip(_COLOURS, results["models"].items(), strict=False):
        _draw(above, model["curve"], colour, name)
    for colour, (name, paired) in zip(_COLOURS, results["differences"].items(), strict=False):
        _draw(below, paired["curve"], colour, name)
    below.axhline(0, color="black", linewidth=0.8)
    window = results["sliding_window"]
    for axes in (above, below):
        axes.axvline(window, color="grey", linestyle="--", linewidth=1)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    above.annotate(
        f" attention window: {window} frames, {sec_from_frames(window):.0f} s",
        xy=(window, 1), xycoords=("data", "axes fraction"), va="top", color="dimgrey",
    )  # fmt: skip
    above.set_ylabel("loss (nats, mean of 8 codebooks)")
    below.set_ylabel(f"difference to {results['baseline']} (nats)")
    below.set_xlabel("position in the recording (frames of 80 ms)")
    minutes = above.secondary_xaxis("top", functions=(_minutes, _frames))
    minutes.set_xlabel("position in the recording (minutes)")
    figure.suptitle(f"Loss by position, {results['recordings']} held-out recordings, codec {results['codec']}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw(axes: Axes, curve: list[dict[str, Any]], colour: str, name: str) -> None:
    """The curve with its interval: solid where every recording takes part, dotted where some have ended."""
    most = max(point["recordings"] for point in curve)
    whole = sum(point["recordings"] == most for point in curve)
    x, y = [point["position_frames"] for point in curve], [point["value"] for point in curve]
    axes.plot(x[:whole], y[:whole], color=colour, label=name)
    if whole < len(curve):
        fewest = min(point["recordings"] for point in curve)
        axes.plot(x[whole - 1 :], y[whole - 1 :], ":", color=colour, label=f"{name}, {most - 1} to {fewest} recordings")
    known = [point for point in curve if point["low"] is not None]
    axes.fill_between(
        [point["position_frames"] for point in known],
        [point["low"] for point in known],
        [point["high"] for point in known],
        color=colour, alpha=0.15, linewidth=0,
    )  # fmt: skip


def _minutes(frames: float) -> float:
    return sec_from_frames(frames) / 60


def _frames(minutes: float) -> float:
    return minutes * 60 / sec_from_frames(1)
