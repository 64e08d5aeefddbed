"""The three figures of a proof: loss by position, gap closed by distance, recall by hearing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from ..evaluation.figures import remove_panels, saved_figure

_PANEL_INCHES = (8.0, 4.0)
_BIN_FRAMES = 8
_COLUMNS = 2
_BARS: dict[str, Any] = {"fmt": "o-", "linewidth": 1, "capsize": 3}
_COLOURS = matplotlib.colormaps["tab20"].colors[::2] + matplotlib.colormaps["tab20"].colors[1::2]  # type: ignore[attr-defined]


def draw_figures(results: dict[str, Any], folder: Path) -> None:
    """Draws what the rungs so far have: loss_by_position.png, gap_by_distance.png and recall_by_hearing.png.

    A figure that none of them has is taken away, so that none of other results lies there.
    """
    rungs = [rung for rung in results["rungs"] if "not_run" not in rung]
    arms = dict.fromkeys(arm for rung in rungs for arm in rung["arms"])
    colours = {arm: _COLOURS[number % len(_COLOURS)] for number, arm in enumerate(arms)}  # the same in all panels
    distant = [rung for rung in rungs if rung["gaps_windows"]]
    heard = [rung for rung in rungs if _first_test(rung)[1]["last"] != "other"]
    for name, shown, draw in (
        ("loss_by_position", rungs, _draw_positions),
        ("gap_by_distance", distant, _draw_distances),
        ("recall_by_hearing", heard, _draw_hearings),
    ):
        path = folder / f"{name}.png"
        path.unlink(missing_ok=True)
        if shown:
            rows = -(-len(shown) // _COLUMNS)
            with saved_figure(path, rows, min(len(shown), _COLUMNS), _PANEL_INCHES) as (_, axes):
                remove_panels(axes, len(shown))
                for rung, panel in zip(shown, axes.flat, strict=False):
                    draw(panel, rung, colours)
                    panel.grid()
                    panel.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _first_test(rung: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return next(iter(rung["tests"].items()))


def _draw_positions(axes: Axes, rung: dict[str, Any], colours: dict[str, Any]) -> None:
    name, test = _first_test(rung)
    for arm, losses in test["positions"].items():
        known = np.array([np.nan if loss is None else loss for loss in losses])
        whole = len(known) // _BIN_FRAMES
        binned = known[: whole * _BIN_FRAMES].reshape(whole, _BIN_FRAMES).mean(1)
        axes.plot((np.arange(whole) + 0.5) * _BIN_FRAMES, binned, linewidth=1, color=colours[arm], label=arm)
    axes.set(title=f"{rung['name']}: {name}", xlabel="position (frames of 80 ms)", ylabel="loss (nats)")


def _draw_distances(axes: Axes, rung: dict[str, Any], colours: dict[str, Any]) -> None:
    """Points without headroom are left out; bars are intervals."""
    for arm in rung["arms"]:
        points = list(_gaps_by_distance(rung, arm))
        if arm not in ("static", rung["reference"]) and points:
            x, value, low, high = (np.array(column) for column in zip(*points, strict=True))
            axes.errorbar(x, value, [value - low, high - value], color=colours[arm], label=arm, **_BARS)
    axes.axhline(0, color="black", linewidth=0.8, label="static")
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":", label=rung["reference"])
    axes.set(xscale="log", title=rung["name"], xlabel="windows of other sound between", ylabel="gap closed")
    gaps = sorted(rung["gaps_windows"].values())
    axes.set_xticks(gaps, [f"{gap:g}" for gap in gaps])
    axes.minorticks_off()
    axes.margins(y=0.1)


def _gaps_by_distance(rung: dict[str, Any], arm: str) -> Iterator[tuple[float, float, float, float]]:
    for test, windows in sorted(rung["gaps_windows"].items(), key=lambda item: item[1]):
        found = rung["tests"][test]
        closed = found["places"][found["last"]][arm]["gap_closed"]
        if closed is not None and closed["low"] is not None:
            yield windows, closed["value"], closed["low"], closed["high"]


def _draw_hearings(axes: Axes, rung: dict[str, Any], colours: dict[str, Any]) -> None:
    """Bars are the range over seeds."""
    name, test = _first_test(rung)
    places = [place for place in test["places"] if place != "other"]
    for arm in rung["arms"]:
        found = [test["places"][place][arm] for place in places]
        mean, low, high = (np.array([each[key] for each in found]) for key in ("loss", "min", "max"))
        bars, x = [mean - low, high - mean], range(len(places))
        axes.errorbar(x, mean, bars, color=colours[arm], label=arm, **_BARS)
    axes.set_xticks(range(len(places)), places)
    highest = max(found["max"] for place in places for found in test["places"][place].values())
    axes.set(title=f"{rung['name']}: {name}", xlabel="hearing", ylabel="loss (nats)", ylim=(0, 1.05 * highest))
