"""Pictures of results show every curve, the lengths that matter, and only what is known."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from hf_moshi_ttt.evaluation.results_plot import draw_pictures, plot_codebooks, plot_differences, plot_loss_by_position

from ..fixtures.results import BIN_FRAMES, WINDOW_FRAMES, example_results, model_results, planted_losses


def test_every_picture_is_drawn_and_readable(tmp_path: Path) -> None:
    pictures = draw_pictures(example_results(), tmp_path)
    assert {title: path.name for title, path in pictures.items()} == {
        "Loss by position": "loss_by_position.png",
        "Differences to the baselines": "differences.png",
        "Loss by codebook and position": "codebooks.png",
        "What the memories do": "memory.png",
    }
    for path in pictures.values():
        pixels = plt.imread(path)
        assert 400 <= pixels.shape[0] <= 2000 and 800 <= pixels.shape[1] <= 2500
        assert 0.005 < np.mean(pixels[..., :3].min(axis=-1) < 0.9) < 0.8
    assert plt.get_fignums() == []


def test_what_the_results_lack_is_not_drawn(tmp_path: Path) -> None:
    results = example_results(comparisons={})
    del results["memory"]
    assert list(draw_pictures(results, tmp_path)) == ["Loss by position", "Loss by codebook and position"]


def test_loss_by_position_has_every_model_and_both_lengths(tmp_path: Path, kept: list[Figure]) -> None:
    results = example_results()
    plot_loss_by_position(results, tmp_path / "loss.png")
    axes = kept[0].axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["ttt", "plain", "window_only"]
    lines = {line.get_label(): line for line in axes.lines}
    curve = results["models"]["plain"]["curve"]
    assert list(lines["plain"].get_xdata()) == [point["position_frames"] for point in curve[:7]]
    assert list(lines["plain"].get_ydata()) == [point["value"] for point in curve[:7]]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata()) == 4]
    assert list(dotted[1].get_ydata()) == [point["value"] for point in curve[6:]]  # where one recording has ended
    marks = {line.get_xdata()[0]: line.get_linestyle() for line in axes.lines if len(set(line.get_xdata())) == 1}
    assert marks == {WINDOW_FRAMES: "--", 600: ":"}
    assert [note.get_text() for note in axes.texts] == [
        " attention window: 250 frames, 20 s", " training length: 600 frames, 48 s",
    ]  # fmt: skip
    (minutes,) = axes.child_axes
    assert np.array(minutes.get_xlim()) == pytest.approx(np.array(axes.get_xlim()) / 750)
    assert "3 recordings, codec a codec" in kept[0].get_suptitle()
    (band,) = axes.collections[:1]
    assert band.get_facecolor()[0][:3] == pytest.approx(plt.get_cmap("tab10")(0)[:3])


def test_huge_intervals_of_the_last_recordings_do_not_flatten_the_curve(tmp_path: Path, kept: list[Figure]) -> None:
    results = example_results()
    results["models"]["ttt"]["curve"][-1].update(low=-100.0, high=100.0)
    plot_loss_by_position(results, tmp_path / "loss.png")
    low, high = kept[0].axes[0].get_ylim()
    assert 4 < low < high < 6


def test_every_baseline_has_a_panel_with_its_verdict(tmp_path: Path, kept: list[Figure]) -> None:
    results = example_results()
    plot_differences(results, tmp_path / "differences.png")
    assert len(kept[0].axes) == 2
    for axes, (name, paired) in zip(kept[0].axes, results["comparisons"].items(), strict=True):
        assert axes.get_title() == f"less {name}\n{paired['verdict']}"
        values = [point["value"] for point in paired["curve"]]
        assert list(axes.lines[0].get_ydata()) == values[:7]
        assert [0, 0] in [list(line.get_ydata()) for line in axes.lines]
        assert axes.get_ylim()[0] < 0 < axes.get_ylim()[1]


def test_the_heat_map_has_a_row_a_codebook(tmp_path: Path, kept: list[Figure]) -> None:
    results = example_results()
    plot_codebooks(results, tmp_path / "codebooks.png")
    above, below = kept[0].axes[:2]
    losses = np.array(results["models"]["ttt"]["codebook_curves"])
    np.testing.assert_array_equal(above.images[0].get_array(), losses)
    assert tuple(above.images[0].get_extent()) == (0, 10 * BIN_FRAMES, 7.5, -0.5)
    shifted = below.images[0].get_array()
    np.testing.assert_allclose(shifted[:, :7].mean(1), 0, atol=1e-12)  # the bins that all recordings reach
    assert {line.get_xdata()[0] for line in above.lines} == {WINDOW_FRAMES, 7 * BIN_FRAMES}


def test_recordings_shorter_than_a_bin_give_empty_pictures(tmp_path: Path) -> None:
    short = [losses[:, :50] for losses in planted_losses()]
    results = example_results(models={"ttt": model_results(short)}, comparisons={})
    del results["memory"]
    assert list(draw_pictures(results, tmp_path)) == ["Loss by position"]


def test_a_single_recording_has_curves_without_bands(tmp_path: Path, kept: list[Figure]) -> None:
    results = example_results(models={"ttt": model_results(planted_losses()[:1])}, comparisons={})
    plot_loss_by_position(results, tmp_path / "loss.png")
    assert len(kept[0].axes[0].lines[0].get_xdata()) == 10
