"""Pictures of what TTT memories do, drawn from the JSON of `memory_curves.py`."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

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
