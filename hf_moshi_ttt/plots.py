"""Pictures of results, drawn from the JSON alone."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .audio import sec_from_frames


def plot_loss_by_position(results: dict[str, Any], path: str | Path) -> None:
    """Loss of every model over position with intervals, and below it the paired differences to the baseline.

    Args:
        results: what `scripts/evaluate_long_context.py` writes.
    """
    panels = 2 if results["differences"] else 1
    figure, axes_PN = plt.subplots(
        panels, 1, figsize=(9, 7.5), sharex=True, height_ratios=[3, 2][:panels], layout="constrained", squeeze=False
    )
    above, lowest = axes_PN[0, 0], axes_PN[-1, 0]
    colours = {name: plt.get_cmap("tab10")(index % 10) for index, name in enumerate(results["models"])}
    for name, model in results["models"].items():
        _draw(above, model["curve"], colours[name], name)
    above.set_ylabel("loss (nats, mean of 8 codebooks)")
    if results["differences"]:
        for name, paired in results["differences"].items():
            _draw(lowest, paired["curve"], colours[name], name)
        lowest.axhline(0, color="black", linewidth=0.8)
        lowest.set_ylabel(f"difference to {results['baseline']} (nats)")
    window = results["sliding_window"]
    for axes in axes_PN[:, 0]:
        axes.axvline(window, color="grey", linestyle="--", linewidth=1)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    above.annotate(
        f" attention window: {window} frames, {sec_from_frames(window):.0f} s",
        xy=(window, 0.98), xycoords=("data", "axes fraction"), va="top", color="dimgrey",
    )  # fmt: skip
    lowest.set_xlabel("position in the recording (frames of 80 ms)")
    minutes = above.secondary_xaxis("top", functions=(_minutes, _frames))
    minutes.set_xlabel("position in the recording (minutes)")
    figure.suptitle(f"Loss by position, {results['recordings']} held-out recordings, codec {results['codec']}")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw(axes: Axes, curve: list[dict[str, Any]], colour: Any, name: str) -> None:
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
