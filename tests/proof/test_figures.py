"""The figures draw what the results hold."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from hf_moshi_ttt.proof.figures import draw_figures
from hf_moshi_ttt.proof.measure import measure
from hf_moshi_ttt.proof.plan import Criterion, Rung

from ..fixtures.proofs import make_runs, make_series


def make_rung(full: float = 1.0) -> dict[str, Any]:
    rung = Rung("refrain", "q", "refrain", ["full", "static", "ttt"], [Criterion("refrain")])
    runs = make_runs({"full": full, "static": 3.0, "ttt": 1.2}, tests=("refrain", "after 16 frames"))
    return measure(rung, make_series(runs), 0.1) | {"gaps_windows": {"after 16 frames": 2.0}}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been closed."""
    figures: list[Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    return figures


def lines(figure: Any) -> dict[str, list[float]]:
    axes = figure.axes[0]
    errors = {str(bars.get_label()): list(bars.lines[0].get_ydata()) for bars in axes.containers}
    return {str(line.get_label()): list(line.get_ydata()) for line in axes.lines} | errors


def test_three_figures(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_figures({"rungs": [make_rung(), {"name": "late", "not_run": "no codes"}]}, tmp_path)
    names = ["gap_by_distance.png", "loss_by_position.png", "recall_by_hearing.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    positions, distances, hearings = map(lines, drawn)
    assert positions["ttt"][:4] == pytest.approx([1.2] * 4) and len(positions["ttt"]) == 5
    assert distances["ttt"] == pytest.approx([0.9]) and hearings["ttt"][1] == pytest.approx(1.2, abs=0.02)


def test_no_figure_of_other_results_stays(tmp_path: Path) -> None:
    draw_figures({"rungs": [make_rung()]}, tmp_path)
    draw_figures({"rungs": [make_rung() | {"gaps_windows": {}}]}, tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["loss_by_position", "recall_by_hearing"]


def test_no_gap_is_drawn_without_headroom(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_figures({"rungs": [make_rung(full=2.95)]}, tmp_path)
    assert set(lines(drawn[1])) == {"static", "full"}


def test_an_arm_has_one_colour_in_all_panels(tmp_path: Path, drawn: list[Figure]) -> None:
    other = make_rung()
    other["arms"] = dict(reversed(other["arms"].items()))
    for test in other["tests"].values():
        test["positions"] = dict(reversed(test["positions"].items()))
    draw_figures({"rungs": [make_rung(), other]}, tmp_path)
    first, second = ({line.get_label(): line.get_color() for line in axes.lines} for axes in drawn[0].axes)
    assert list(first) == list(second)[::-1] and first == second and len(set(first.values())) == 3
