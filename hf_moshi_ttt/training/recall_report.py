"""The runs of a recall task in one summary over seeds, and as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.loss_curve import mean_over_recordings
from .recall_setup import CONTROL


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each arm's losses over its seeds, by test: `{arm: {test: {hearings, other, other_less_static}}}`.

    A loss is `{mean, min, max, seeds}`. `other_less_static` is the paired difference of the other frames to the static
    arm of the same seeds, `{value, low, high}` with its bootstrap interval over recordings; None without that arm.
    """
    arms = list(dict.fromkeys(run["arm"] for run in runs))
    return {arm: _summarise_arm(arm, runs) for arm in arms}


def _summarise_arm(arm: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    own = {run["seed"]: run["tests"] for run in runs if run["arm"] == arm}
    control = {run["seed"]: run["tests"] for run in runs if run["arm"] == CONTROL}
    summary = {}
    for test, first in next(iter(own.values())).items():
        found = [tests[test] for tests in own.values()]
        pairs = [(tests[test], control[seed][test]) for seed, tests in own.items() if seed in control]
        summary[test] = {
            "hearings": [
                _over_seeds([each["hearings"][number] for each in found]) for number in range(len(first["hearings"]))
            ],
            "other": _over_seeds([each["other"] for each in found]),
            "other_less_static": None if arm == CONTROL else _paired(pairs),
        }
    return summary


def _over_seeds(estimates: Sequence[dict[str, float] | None]) -> dict[str, Any] | None:
    values = [estimate["value"] for estimate in estimates if estimate is not None]
    if not values:
        return None
    return {"mean": float(np.mean(values)), "min": min(values), "max": max(values), "seeds": len(values)}


def _paired(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any] | None:
    """The mean over seeds of each sequence's difference, and its interval over recordings, or over random sequences."""
    rows = [np.subtract(own["other_rows"], static["other_rows"]) for own, static in pairs if own["other_rows"]]
    if not rows:
        return None
    estimate = mean_over_recordings(np.mean(rows, axis=0), pairs[0][0]["other_recordings"])
    assert estimate is not None, "a test has sequences"
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def table(summary: dict[str, Any]) -> str:
    """A line for each arm and test: the losses by hearing, those of the other frames, and their difference."""
    lines = []
    for arm, tests in summary.items():
        for test, found in tests.items():
            cells = [_cell(loss) for loss in [*found["hearings"], found["other"]]]
            pair = found["other_less_static"]
            less = "-" if pair is None else f"{pair['value']:+.4f}{_ends(pair)}"
            lines.append((arm, test, *cells, less))
    hearings = max(len(line) for line in lines) - 4
    heads = [f"hearing {number}" for number in range(1, hearings + 1)]
    rows = [("arm", "test", *heads, "other frames", "other frames less static's"), *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _ends(pair: dict[str, Any]) -> str:
    """The interval; empty for a single sequence, which has none."""
    return "" if pair["low"] is None else f" [{pair['low']:+.4f}, {pair['high']:+.4f}]"


def _cell(loss: dict[str, Any] | None) -> str:
    if loss is None:
        return "-"
    spread = f" ({loss['min']:.3f} to {loss['max']:.3f})" if loss["seeds"] > 1 else ""
    return f"{loss['mean']:.3f}{spread}"
