"""Pictures of what TTT memories do, drawn from the JSON of `memory_curves.py`."""

from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes

from .figures import remove_panels, saved_figure

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
    layers, curves, x_label = report["layers"], report["curves"], report["x_label"]
    loss_rows = -(-len(layers) // _COLUMNS)
    with saved_figure(path, loss_rows + 1, _COLUMNS, (4, 3.2)) as (figure, panels):
        for index, (layer, axes) in enumerate(zip(layers, panels.flat, strict=False)):
            _draw_losses(axes, report["x"], {name: values[index] for name, values in curves.items()})
            _from_zero(axes, f"layer {layer}: inner loss", x_label)
        panels.flat[0].legend()
        for axes, (name, label) in zip(panels[-1], _BY_LAYER.items(), strict=True):
            _draw_by_layer(axes, report["x"], curves.get(name, []), layers)
            _from_zero(axes, label, x_label)
        if panels[-1, 0].lines:
            panels[-1, 0].legend()
        remove_panels(panels[:-1], len(layers))
        figure.suptitle(
            "TTT memories: squared error per feature of the inner target; 1 = a constant answer, 2 = a random one"
        )


def _draw_losses(axes: Axes, x: list[float], curves: dict[str, list[float | None]]) -> None:
    for name, (label, colour, style) in _INNER_LOSSES.items():
        if name in curves:
            axes.plot(x, _known(curves[name]), style, color=colour, label=label)
    axes.axhline(1, color="black", linewidth=0.6, linestyle=":")


def _draw_by_layer(axes: Axes, x: list[float], curves: list[list[float | None]], layers: list[int]) -> None:
    for index, (layer, values) in enumerate(zip(layers, curves, strict=False)):
        colour = colormaps["viridis"](0.9 * index / max(1, len(layers) - 1))
        axes.plot(x, _known(values), color=colour, label=f"layer {layer}")


def _from_zero(axes: Axes, title: str, x_label: str) -> None:
    axes.margins(y=0.15)
    axes.set(title=title, xlabel=x_label)
    axes.set_ylim(bottom=0)


def _known(values: list[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
