"""The curves of a run are drawn from its logs."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from hf_moshi_ttt.training.training_plot import plot_training

ENTRIES = [
    {
        "step": step, "loss": 9 / step, "audio_loss": 8 / step, "grad_norm": 1.0,
        "learning_rate/base": 1e-3 * step, "learning_rate/base_no_decay": 1e-3 * step,
    }
    for step in range(1, 101)
]  # fmt: skip


def test_every_quantity_is_drawn_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(plt, "close", kept.append)
    plot_training([*ENTRIES, {"step": 100, "train_runtime": 3.0}], tmp_path / "curves.png", "a run")
    losses, norms, rates, speed = kept[0].axes
    raw = losses.lines[2]  # the first is the other loss, each with its running mean
    assert list(raw.get_xdata())[:3] == [1, 2, 3] and list(raw.get_ydata())[:2] == [9, 4.5]
    mean = losses.lines[3].get_ydata()
    assert (
        mean[0] == 9 and mean[1] == (9 + 4.5) / 2 and mean[-1] == pytest.approx(sum(9 / s for s in range(81, 101)) / 20)
    )
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["audio_loss", "loss"]
    assert rates.get_yscale() == norms.get_yscale() == "log" and len(rates.lines) == 1 and not speed.lines
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    monkeypatch.undo()
    plt.close("all")


def test_nothing_logged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No step was logged, there are no curves to draw: train with a lower"):
        plot_training([{"step": 3, "train_runtime": 1.0}], tmp_path / "curves.png", "a run")
