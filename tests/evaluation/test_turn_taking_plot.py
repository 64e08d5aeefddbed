"""Pictures are drawn with what they must show."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hf_moshi_ttt.evaluation import figures
from hf_moshi_ttt.evaluation.speech_times import Word
from hf_moshi_ttt.evaluation.turn_taking import Heard
from hf_moshi_ttt.evaluation.turn_taking_plot import plot_conversation, plot_sweep

USER = np.array([[1.0, 3.0], [6.0, 8.0]])
MODEL = np.array([[3.5, 5.0], [7.5, 9.0]])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved, still open."""
    kept: list[Any] = []
    monkeypatch.setattr(figures.plt, "close", kept.append)
    yield kept
    monkeypatch.undo()
    for figure in kept:
        plt.close(figure)


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_a_conversation_shows_bars_words_and_delays(tmp_path: Path, drawn: list[Any]) -> None:
    heard = Heard(USER, MODEL, 10.0, [Word("hello", 3.5, 3.7), Word("late", 12.0, 12.2)])
    plot_conversation({"human": heard, "model": Heard(USER, MODEL[:1], 10.0)}, tmp_path / "talk.png", "a talk")
    (figure,) = drawn
    first, second = figure.axes
    assert (tmp_path / "talk.png").stat().st_size > 1000 and first.get_xlim() == (0.0, 10.0)
    assert texts(first) == ["0.50 s", "hello"] and texts(second) == ["0.50 s", "words unknown"]
    assert [label.get_text() for label in first.get_yticklabels()] == ["user", "human"]
    bars = [box.get_extents().width for bars in first.collections for box in bars.get_paths()]
    assert bars == pytest.approx([2.0, 2.0, 1.5, 1.5])
    shaded = [(patch.get_x(), patch.get_width()) for patch in first.patches if hasattr(patch, "get_x")]
    assert np.array(shaded) == pytest.approx(np.array([(7.5, 0.5), (3.0, 0.5), (5.0, 1.0)]))


def test_a_span_outside_the_conversation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start_sec=12, but the conversation lasts 10.00 s"):
        plot_conversation({"model": Heard(USER, MODEL, 10.0)}, tmp_path / "talk.png", "a talk", start_sec=12)


def test_a_sweep_draws_what_is_there_and_names_what_is_not(tmp_path: Path, drawn: list[Any]) -> None:
    numbers = {"response_delay_median_sec": 0.5, "pause_takeover_rate": 0.25, "response_rate": 0.5}
    points = [{"text_pad_bias": 0.0, "numbers": numbers}, {"text_pad_bias": 9.0, "numbers": {"pause_takeover_rate": 0}}]
    plot_sweep(points, tmp_path / "sweep.png", {**numbers, "pause_takeover_rate": 0.0})
    (figure,) = drawn
    assert texts(figure.axes[0]) == [" 0 (answers 50%)"]
    assert [line.get_xydata().tolist() for line in figure.axes[0].lines] == [[[0.5, 0.25]], [[0.5, 0.0]]]
    assert "no answer, or no pause, at 9" in figure.get_suptitle()
