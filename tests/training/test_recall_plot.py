"""The picture has the panels that a task needs, and draws the numbers of its summary."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from hf_moshi_ttt.training.recall_plot import plot_recall


def loss(mean: float) -> dict[str, Any]:
    return {"mean": mean, "min": mean - 0.5, "max": mean + 0.5, "seeds": 2}


def make_results(tests: dict[str, dict[str, Any]], chance_nats: float | None = None) -> dict[str, Any]:
    runs = [{"seed": 0}, {"seed": 1}]
    summary = {"static": tests, "ttt": tests}
    return {"task": "motif", "size": {"steps": 5}, "chance_nats": chance_nats, "runs": runs, "summary": summary}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been closed."""
    figures: list[Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    return figures


@pytest.mark.parametrize(
    ("tests", "panels"),
    [
        ({"motif": {"hearings": [loss(3), loss(1)], "other": None}}, ["by hearing"]),
        ({"refrain": {"hearings": [loss(3), loss(1)], "other": loss(2)}}, ["by hearing", "other frames"]),
        ({"natural": {"hearings": [], "other": loss(2)}}, ["other frames"]),
        (
            {gap: {"hearings": [loss(3), loss(1)], "other": loss(2)} for gap in ("after 16", "after 64")},
            ["first hearing", "hearing 2", "other frames"],
        ),
    ],
)
def test_panels_are_those_of_the_task(
    tmp_path: Path, drawn: list[Figure], tests: dict[str, dict[str, Any]], panels: list[str]
) -> None:
    plot_recall(make_results(tests), tmp_path / "recall.png")
    assert [axes.get_title() for axes in drawn[0].axes] == panels
    assert (tmp_path / "recall.png").stat().st_size > 5_000


def test_lines_are_means_by_hearing_with_chance(tmp_path: Path, drawn: list[Figure]) -> None:
    tests = {"motif": {"hearings": [loss(3), loss(1)], "other": None}}
    plot_recall(make_results(tests, chance_nats=3.2), tmp_path / "recall.png")
    axes = drawn[0].axes[0]
    bars = {container.get_label(): container for container in axes.containers}
    line, _, (ranges,) = bars["ttt"].lines
    assert list(line.get_ydata()) == [3, 1]
    assert [segment[:, 1].tolist() for segment in ranges.get_segments()] == [[2.5, 3.5], [0.5, 1.5]]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "chance"] == [3.2]
    assert drawn[0].get_suptitle() == "motif: 5 steps of training, 2 seeds"
