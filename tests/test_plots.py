"""The picture of a results dict shows every curve, the window's end and the labels that tell what is compared."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_moshi_ttt.plots import plot_loss_by_position, plot_memory


def curve(*values: float, half_width: float | None = 0.1) -> list[dict[str, Any]]:
    """Bins of 250 frames."""
    return [
        {
            "position_frames": 250 * (index + 0.5),
            "value": value,
            "low": None if half_width is None else value - half_width,
            "high": None if half_width is None else value + half_width,
            "recordings": 3,
        }
        for index, value in enumerate(values)
    ]


def results(**changes: Any) -> dict[str, Any]:
    """What scripts/evaluate_long_context.py writes, as far as it is drawn."""
    return {
        "models": {"ttt": {"curve": curve(5.0, 4.5, 4.0)}, "plain": {"curve": curve(5.0, 4.75, 4.5)}},
        "differences": {"ttt": {"curve": curve(0.0, -0.25, -0.5)}},
        "sliding_window": 375,
        "baseline": "plain",
        "recordings": 3,
        "codec": "runs/codec",
        **changes,
    }


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been closed."""
    figures: list[Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    return figures


def lines(figure: Figure, axes: int) -> dict[str, list[list[float]]]:
    return {str(line.get_label()): [list(line.get_xdata()), list(line.get_ydata())] for line in figure.axes[axes].lines}


def test_the_file_is_a_picture_of_a_readable_size(tmp_path: Path) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = plt.imread(tmp_path / "loss.png")
    assert 600 <= pixels.shape[0] <= 2000
    assert 800 <= pixels.shape[1] <= 2500
    assert 0.005 < np.mean(pixels[..., :3].min(axis=-1) < 0.9) < 0.5  # drawn on, mostly white
    assert plt.get_fignums() == []


def test_every_model_and_difference_is_drawn(tmp_path: Path, kept: list[Figure]) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    above, below = lines(kept[0], 0), lines(kept[0], 1)
    assert above["ttt"] == [[125.0, 375.0, 625.0], [5.0, 4.5, 4.0]]
    assert above["plain"] == [[125.0, 375.0, 625.0], [5.0, 4.75, 4.5]]
    assert below["ttt"] == [[125.0, 375.0, 625.0], [0.0, -0.25, -0.5]]
    for axes, labels in ((kept[0].axes[0], ["ttt", "plain"]), (kept[0].axes[1], ["ttt"])):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels


def test_a_model_has_one_colour_in_both_panels(tmp_path: Path, kept: list[Figure]) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in kept[0].axes[:2]]
    assert colours[0]["ttt"] == colours[1]["ttt"] != colours[0]["plain"]


def test_intervals_are_bands_around_the_curves(tmp_path: Path, kept: list[Figure]) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    (band,) = kept[0].axes[1].collections
    assert {tuple(point) for point in band.get_paths()[0].vertices.round(6)} == {
        (125.0, -0.1), (125.0, 0.1), (375.0, -0.35), (375.0, -0.15), (625.0, -0.6), (625.0, -0.4),
    }  # fmt: skip


def test_the_window_and_the_zero_are_marked(tmp_path: Path, kept: list[Figure]) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    for axes in kept[0].axes[:2]:
        (window,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert list(window.get_xdata()) == [375, 375]
    assert [0, 0] in [list(line.get_ydata()) for line in kept[0].axes[1].lines]
    (note,) = kept[0].axes[0].texts
    assert note.get_text() == " attention window: 375 frames, 30 s"
    assert note.xy[0] == 375


def test_the_labels_name_what_is_compared(tmp_path: Path, kept: list[Figure]) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    above, below = kept[0].axes[:2]
    assert above.get_ylabel() == "loss (nats, mean of 8 codebooks)"
    assert below.get_ylabel() == "difference to plain (nats)"
    assert below.get_xlabel() == "position in the recording (frames of 80 ms)"
    assert kept[0].get_suptitle() == "Loss by position, 3 held-out recordings, codec runs/codec"


def test_the_upper_scale_is_minutes(tmp_path: Path, kept: list[Figure]) -> None:
    plot_loss_by_position(results(), tmp_path / "loss.png")
    above = kept[0].axes[0]
    (minutes,) = above.child_axes
    assert minutes.get_xlabel() == "position in the recording (minutes)"
    assert np.array(minutes.get_xlim()) == pytest.approx(np.array(above.get_xlim()) / 750)


def test_a_single_recording_has_curves_without_intervals(tmp_path: Path, kept: list[Figure]) -> None:
    model = {"curve": curve(5.0, 4.0, half_width=None)}
    plot_loss_by_position(results(models={"ttt": model}, differences={"ttt": model}), tmp_path / "loss.png")
    assert lines(kept[0], 0)["ttt"][1] == [5.0, 4.0]
    assert (tmp_path / "loss.png").stat().st_size > 10_000


def memory(num_layers: int, **changes: Any) -> dict[str, Any]:
    """What memory_curves.py makes."""
    losses = ("loss_initial", "loss_before", "loss_after", "key_dependent_share", "gate", "branch_to_residual")
    return {
        "x_label": "training step", "x": [10, 20], "layers": list(range(3, 3 + num_layers)), "recordings": [],
        "curves": {name: [[1.0 + layer, None] for layer in range(num_layers)] for name in losses}, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("num_layers", [1, 4, 5])
def test_every_layer_has_a_panel_and_every_quantity_its_lines(
    tmp_path: Path, kept: list[Figure], num_layers: int
) -> None:
    plot_memory(memory(num_layers), tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 10_000
    panels = {axes.get_title(): axes for axes in kept[0].axes}
    assert [title for title in panels if title.startswith("layer")] == [
        f"layer {index}: inner loss" for index in range(3, 3 + num_layers)
    ]
    own = {line.get_label(): list(line.get_ydata())[:1] for line in panels["layer 3: inner loss"].lines[:3]}
    assert own == {"W_0 (no learning)": [1.0], "before the frame's step": [1.0], "after the frame's step": [1.0]}
    assert len(panels["mean size of the gate"].lines) == num_layers
    assert len(panels["norm of what was learned / of W_0"].lines) == 0  # not in the report
    assert all(axes.get_xlabel() == "training step" and axes.get_ylim()[0] == 0 for axes in kept[0].axes)
    assert "1 = a constant answer, 2 = a random one" in kept[0].get_suptitle()
