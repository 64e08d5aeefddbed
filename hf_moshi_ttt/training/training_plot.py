"""The curves of a run, drawn from what it has logged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ..evaluation.figures import saved_figure

_SMOOTHED_OVER = 20  # logged steps


def plot_training(entries: Sequence[dict[str, Any]], path: str | Path, title: str) -> None:
    """Losses by stream, gradient norm, learning rates and speed over the steps.

    Args:
        entries: the lines of metrics.jsonl.

    Raises:
        ValueError: no step was logged.
    """
    logged = [entry for entry in entries if "loss" in entry]
    if not logged:
        raise ValueError(
            "No step was logged, there are no curves to draw: train with a lower logging_steps (hf-moshi-ttt train)."
        )
    names = {name for entry in logged for name in entry}
    losses = sorted(name for name in names if name == "loss" or name.endswith("_loss"))
    rates = _one_of_each_kind(sorted(name for name in names if name.startswith("learning_rate/")))
    with saved_figure(path, 2, 2, (6, 3.75)) as (figure, panels):
        _draw(panels[0, 0], logged, losses, "loss (nats)")
        _draw(panels[0, 1], logged, ["grad_norm"], "gradient norm before clipping", logarithmic=True)
        _draw(panels[1, 0], logged, rates, "learning rate", logarithmic=True, smooth=False)
        _draw(panels[1, 1], logged, ["audio_seconds_per_second"], "seconds of audio a second")
        for axes in panels[1]:
            axes.set_xlabel("step")
        figure.suptitle(title)


def _kind(name: str) -> str:
    return name.removeprefix("learning_rate/").removesuffix("_no_decay")


def _one_of_each_kind(names: Sequence[str]) -> list[str]:
    """The rates of groups with and without weight decay are the same."""
    return list({_kind(name): name for name in names}.values())


def _draw(
    axes: Axes, logged: list[dict[str, Any]], names: Sequence[str], label: str, logarithmic: bool = False,
    smooth: bool = True,
) -> None:  # fmt: skip
    for index, name in enumerate(names):
        known = [(entry["step"], entry[name]) for entry in logged if name in entry]
        if not known:
            continue
        steps, values = zip(*known, strict=True)
        colour, short = f"C{index % 10}", _kind(name)
        is_smoothed = smooth and len(values) > 3 * _SMOOTHED_OVER
        axes.plot(steps, values, color=colour, alpha=0.25 if is_smoothed else 1.0, label=None if is_smoothed else short)
        if is_smoothed:
            axes.plot(steps, _running_mean(values), color=colour, label=short)
    if logarithmic and any(entry.get(name, 0) > 0 for entry in logged for name in names):
        axes.set_yscale("log")
    axes.set_title(label)
    axes.grid()
    if len(names) > 1:
        axes.legend()


def _running_mean(values: Sequence[float]) -> list[float]:
    firsts = [max(0, last - _SMOOTHED_OVER) for last in range(1, len(values) + 1)]
    return [sum(values[first:last]) / (last - first) for last, first in enumerate(firsts, start=1)]
