"""Pictures of a long-context evaluation, drawn from its `results.json`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from ..codec.audio import sec_from_frames
from .figures import POSITION_LABEL, remove_panels, saved_figure
from .memory_plot import plot_memory

_COLUMNS = 2


def draw_pictures(results: dict[str, Any], folder: str | Path) -> dict[str, Path]:
    """Draws every picture that the results give; title -> file, in the order of a report."""
    drawers: dict[str, tuple[str, Callable[[dict[str, Any], Path], None]]] = {
        "Loss by position": ("loss_by_position.png", plot_loss_by_position)
    }
    if results["comparisons"]:
        drawers["Differences to the baselines"] = ("differences.png", plot_differences)
    if _main(results)["curve"]:
        drawers["Loss by codebook and position"] = ("codebooks.png", plot_codebooks)
    if "memory" in results:
        drawers["What the memories do"] = ("memory.png", lambda all_, path: plot_memory(all_["memory"], path))
    paths = {}
    for title, (name, draw) in drawers.items():
        paths[title] = Path(folder, name)
        draw(results, paths[title])
    return paths


def plot_loss_by_position(results: dict[str, Any], path: str | Path) -> None:
    """Loss of every model over position with intervals, the window's end and the training length."""
    colours = _colours(results)
    seen: list[float] = []
    with saved_figure(path, 1, 1, (9, 5.2)) as (figure, panels):
        axes = panels[0, 0]
        for name, model in results["models"].items():
            seen += _draw(axes, model["curve"], colours[name], name, is_main=name == results["model"])
        _fit(axes, seen)
        _mark_lengths(axes, results)
        axes.set(ylabel="loss (nats, mean of all codebooks)", xlabel=POSITION_LABEL)
        if seen:
            axes.legend()
        _minutes_above(axes)
        figure.suptitle(
            f"Loss by position, {len(results['recordings'])} recordings, codec {results['codec']}\n"
            f"bins of {_main(results)['bin_frames']} frames; the band is {results['model']}'s 95% interval; dotted "
            "where some recordings have ended"
        )


def plot_differences(results: dict[str, Any], path: str | Path) -> None:
    """A panel for each baseline: the paired difference by position, and the verdict."""
    comparisons, colours = results["comparisons"], _colours(results)
    columns = min(_COLUMNS, len(comparisons))
    rows = -(-len(comparisons) // columns)
    with saved_figure(path, rows, columns, (7, 3.8), sharex=True) as (figure, panels):
        for axes, (name, paired) in zip(panels.flat, comparisons.items(), strict=False):
            _fit(axes, [0.0, *_draw(axes, paired["curve"], colours[name], name)])
            axes.axhline(0, color="black", linewidth=0.8)
            _mark_lengths(axes, results, paired["window_frames"])
            axes.set_title(f"less {name}\n{paired['verdict']}", fontsize="small")
            axes.set(xlabel=POSITION_LABEL, ylabel="difference (nats), below 0 is better")
            axes.xaxis.set_tick_params(labelbottom=True)
        remove_panels(panels, len(comparisons))
        figure.suptitle(f"Loss of {results['model']} less that of its baselines, on the same recordings and positions")


def plot_codebooks(results: dict[str, Any], path: str | Path) -> None:
    """Heat maps of the main model: each codebook's loss by position, and less its mean where no recording has ended."""
    model = _main(results)
    losses_QN = np.array(model["codebook_curves"], dtype=float)
    whole = _whole(model["curve"])
    shifted = losses_QN - losses_QN[:, :whole].mean(1, keepdims=True)
    furthest = max(1e-3, float(np.nanmax(np.abs(shifted[:, :whole]))))
    drawn: Any = (
        (losses_QN, "loss (nats)", {"cmap": "viridis"}),
        (shifted, "less the codebook's mean", {"cmap": "RdBu_r", "vmin": -furthest, "vmax": furthest}),
    )
    with saved_figure(path, 2, 1, (9, 3.2), sharex=True) as (figure, panels):
        for axes, (values_QN, label, colours) in zip(panels.flat, drawn, strict=True):
            extent = (0, losses_QN.shape[1] * model["bin_frames"], len(values_QN) - 0.5, -0.5)
            image = axes.imshow(values_QN, aspect="auto", interpolation="nearest", extent=extent, **colours)
            figure.colorbar(image, ax=axes, label=label)
            axes.axvline(model["description"]["sliding_window"], color="grey", linestyle="--", linewidth=1)
            axes.axvline(whole * model["bin_frames"], color="black", linewidth=1)
            axes.set(ylabel="codebook", yticks=range(len(values_QN)))
        panels[1, 0].set_xlabel(POSITION_LABEL)
        figure.suptitle(
            f"{results['model']}: loss by codebook and position\n"
            "dashed: the attention window; right of the black line some recordings have ended"
        )


def plot_conversations(results: dict[str, Any], path: str | Path) -> None:
    """Each measure of generated speech over the conversation, beside that of the real conversations."""
    with saved_figure(path, 2, 2, (5.5, 3.25), sharex=True) as (figure, panels):
        for axes, name in zip(panels.flat, results["generated"], strict=True):
            seen = [0.0]
            for kind, colour in (("generated", "tab:blue"), ("reference", "grey")):
                seen += _draw(axes, results[kind][name], colour, kind)
            _fit(axes, seen)
            axes.set_ylim(bottom=0, top=axes.get_ylim()[1] if name == "entropy_bits" else min(1.05, axes.get_ylim()[1]))
            axes.set(title=name, xlabel="position (frames of 80 ms)")
            axes.grid()
        panels[0, 0].legend()
        figure.suptitle(f"{results['model']}: speech over {len(results['conversations'])} conversations")


def _main(results: dict[str, Any]) -> dict[str, Any]:
    return results["models"][results["model"]]


def _colours(results: dict[str, Any]) -> dict[str, Any]:
    return {name: colormaps["tab10"](index % 10) for index, name in enumerate(results["models"])}


def _mark_lengths(axes: Axes, results: dict[str, Any], window: int | None = None) -> None:
    window = window or _main(results)["description"]["sliding_window"]
    marks = [(window, "--", "attention window")]
    if results["settings"].get("training_frames"):
        marks.append((results["settings"]["training_frames"], ":", "training length"))
    for number, (frames, style, label) in enumerate(marks):
        axes.axvline(frames, color="grey", linestyle=style, linewidth=1)
        axes.annotate(
            f" {label}: {frames} frames, {sec_from_frames(frames):.0f} s",
            xy=(frames, 0.98 - 0.07 * number), xycoords=("data", "axes fraction"), va="top", color="dimgrey",
            fontsize="small", bbox={"color": "white", "alpha": 0.7, "pad": 0.5},
        )  # fmt: skip
    axes.grid()


def _draw(axes: Axes, curve: list[dict[str, Any]], colour: Any, name: str, is_main: bool = True) -> list[float]:
    """The curve: solid where every recording takes part, dotted where some have ended.

    Args:
        is_main: whether it is drawn above the others and with its interval.

    Returns:
        Values that the y axis must show: the curve, and the intervals where every recording takes part (of the last few
        recordings they are wide).
    """
    if not curve:
        return []
    whole = _whole(curve)
    x, y = [point["position_frames"] for point in curve], [point["value"] for point in curve]
    order = 3 if is_main else 2
    axes.plot(x[:whole], y[:whole], color=colour, label=name, zorder=order)
    axes.plot(x[whole - 1 :], y[whole - 1 :], ":", color=colour, zorder=order)
    known = [point for point in curve if is_main and point["low"] is not None]
    axes.fill_between(
        [point["position_frames"] for point in known],
        [point["low"] for point in known],
        [point["high"] for point in known],
        color=colour, alpha=0.15, linewidth=0,
    )  # fmt: skip
    return [*y, *(point[side] for point in known[:whole] for side in ("low", "high"))]


def _fit(axes: Axes, seen: list[float]) -> None:
    if seen:
        margin = 0.05 * (max(seen) - min(seen)) or 0.1
        axes.set_ylim(min(seen) - margin, max(seen) + margin)


def _whole(curve: list[dict[str, Any]]) -> int:
    """How many bins from the first have all recordings."""
    most = max(point["recordings"] for point in curve)
    return sum(point["recordings"] == most for point in curve)


def _minutes_above(axes: Axes) -> None:
    above = axes.secondary_xaxis("top", functions=(_minutes, _frames))
    above.set_xlabel("position in the recording (minutes)")


def _minutes(frames: Any) -> Any:
    return sec_from_frames(frames) / 60


def _frames(minutes: Any) -> Any:
    return minutes * 60 / sec_from_frames(1)
