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


_INNER_LOSSES = {
    "loss_initial": ("W_0 (no learning)", "grey", "-"),
    "loss_before": ("before the frame's step", "tab:blue", "-"),
    "loss_after": ("after the frame's step", "tab:green", "--"),
}
_BY_LAYER = {
    "delta_ratio": "norm of what was learned / of W_0",
    "key_dependent_share": "key-dependent share of the answers",
    "gate": "mean size of the gate",
    "branch_to_residual": "RMS of branch / residual stream",
}
_COLUMNS = 4


def plot_memory(report: dict[str, Any], path: str | Path) -> None:
    """Inner losses of each TTT layer in a panel of its own, and below them the other quantities of all layers.

    Args:
        report: what `memory_curves.py` makes, by position or by training step.
    """
    layers, curves = report["layers"], report["curves"]
    rows = -(-len(layers) // _COLUMNS)
    figure = plt.figure(figsize=(4 * _COLUMNS, 3.2 * (rows + 1)), layout="constrained")
    grid = figure.add_gridspec(rows + 1, _COLUMNS)
    for place, layer in enumerate(layers):
        axes = figure.add_subplot(grid[place // _COLUMNS, place % _COLUMNS])
        for name, (label, colour, style) in _INNER_LOSSES.items():
            if name in curves:
                axes.plot(report["x"], _known(curves[name][place]), style, color=colour, label=label)
        axes.axhline(1, color="black", linewidth=0.6, linestyle=":")
        _from_zero(axes, f"layer {layer}: inner loss", report["x_label"])
    figure.axes[0].legend(frameon=False, fontsize="small")
    colours = plt.get_cmap("viridis")
    for column, (name, label) in enumerate(_BY_LAYER.items()):
        axes = figure.add_subplot(grid[rows, column])
        for place, layer in enumerate(layers):
            if name in curves:
                share = place / max(1, len(layers) - 1)
                axes.plot(report["x"], _known(curves[name][place]), color=colours(0.9 * share), label=f"layer {layer}")
        _from_zero(axes, label, report["x_label"])
        axes.legend(frameon=False, fontsize="small") if column == 0 and axes.lines else None
    figure.suptitle(
        "TTT memories: squared error per feature of the inner target; 1 = a constant answer, 2 = a random one"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _from_zero(axes: Axes, title: str, x_label: str) -> None:
    axes.margins(y=0.15)
    axes.set(title=title, xlabel=x_label)
    axes.set_ylim(bottom=0)


def _known(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


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
