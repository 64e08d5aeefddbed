"""The picture of a recall task, drawn from its recall.json: what each arm remembers, and what that costs elsewhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..evaluation.figures import saved_figure

_PANEL_INCHES = (5.0, 4.0)
Loss = dict[str, Any] | None


def plot_recall(results: dict[str, Any], path: str | Path) -> None:
    """Losses by hearing, or with several tests those of the first and the last hearing by test; and of other frames.

    Bars are the range over seeds.

    Args:
        results: what `hf-moshi-ttt recall` writes.
    """
    summary = results["summary"]
    tests = list(next(iter(summary.values())))
    panels = _panels(summary, tests)
    seeds = len({run["seed"] for run in results["runs"]})
    with saved_figure(path, 1, len(panels), _PANEL_INCHES) as (figure, axes):
        for place, (title, losses) in enumerate(panels.items()):
            panel = axes[0, place]
            if title == "by hearing":
                hearings = len(next(iter(losses.values())))
                _draw(panel, losses, [str(number) for number in range(1, hearings + 1)], "o-")
                _draw_chance(panel, results["chance_nats"])
            else:
                _draw(panel, losses, tests, "o")
            panel.set(title=title, ylabel="loss (nats)")
            panel.grid()
        axes[0, 0].legend()
        count = "1 seed" if seeds == 1 else f"{seeds} seeds"
        figure.suptitle(f"{results['task']}: {results['size']['steps']} steps of training, {count}")


def _panels(summary: dict[str, Any], tests: Sequence[str]) -> dict[str, dict[str, list[Loss]]]:
    """The panels by title: of each arm the losses by hearing, or by test."""
    panels: dict[str, dict[str, list[Loss]]] = {}
    hearings = len(next(iter(summary.values()))[tests[0]]["hearings"])
    if len(tests) == 1 and hearings:
        panels["by hearing"] = {arm: found[tests[0]]["hearings"] for arm, found in summary.items()}
    elif hearings:
        for title, number in (("first hearing", 0), (f"hearing {hearings}", -1)):
            panels[title] = {arm: [found[test]["hearings"][number] for test in tests] for arm, found in summary.items()}
    other = {arm: [found[test]["other"] for test in tests] for arm, found in summary.items()}
    if any(loss is not None for losses in other.values() for loss in losses):
        panels["other frames"] = other
    return panels


def _draw(axes: Axes, losses: dict[str, list[Loss]], names: Sequence[str], style: str) -> None:
    """Each arm's losses over `names`, beside each other where they are equal."""
    width = 0.5 / len(losses)
    for colour, (arm, found) in enumerate(losses.items()):
        known = [(place, loss) for place, loss in enumerate(found) if loss is not None]
        x = [place + (colour + 0.5) * width - 0.25 for place, _ in known]
        mean, low, high = (np.array([loss[key] for _, loss in known]) for key in ("mean", "min", "max"))
        axes.errorbar(
            x, mean, [mean - low, high - mean], fmt=style, linewidth=0.8, markersize=5, capsize=3,
            color=f"C{colour}", label=arm,
        )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=20 if max(map(len, names)) > 10 else 0)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _draw_chance(axes: Axes, chance_nats: float | None) -> None:
    if chance_nats is not None:
        axes.axhline(chance_nats, color="black", linewidth=0.8, linestyle=":", label="chance")
    axes.set_xlabel("hearing")
    axes.set_ylim(bottom=0)
