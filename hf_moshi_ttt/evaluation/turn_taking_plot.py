"""Pictures of turn-taking: conversations as speaking bars with words, and the sweep of a bias."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from .figures import saved_figure
from .speech_times import joined
from .turn_events import find_events, inter_pausal_units
from .turn_outcomes import RESPONSE_SEC, TURN_SILENCE_SEC
from .turn_taking import Heard

_ROWS = {"user": 0.0, "model": 1.0}
_COLOURS = {"user": "tab:blue", "model": "tab:orange", "overlap": "tab:red", "gap": "tab:green"}
_HEIGHT = 0.32


def plot_conversation(
    heard: dict[str, Heard], path: str | Path, title: str, start_sec: float = 0.0, length_sec: float = 30.0
) -> None:
    """A panel for each model (or the human) in one conversation: who speaks, gaps, overlaps, delays and words.

    Args:
        heard: the same conversation, by the speaker's name.
        length_sec: what is drawn from `start_sec` on.

    Raises:
        ValueError: nothing to draw in that span.
    """
    end_sec = min(start_sec + length_sec, max(one.duration_sec for one in heard.values()))
    if not end_sec > start_sec >= 0:
        raise ValueError(f"start_sec={start_sec}, but the conversation lasts {end_sec:.2f} s.")
    with saved_figure(path, len(heard), 1, (14, 2.6), sharex=True) as (figure, panels):
        for axes, (name, one) in zip(panels[:, 0], heard.items(), strict=True):
            _draw_conversation(axes, one, name, (start_sec, end_sec))
        panels[-1, 0].set_xlabel("seconds")
        figure.suptitle(
            f"{title}\nred: both speak; green: silence between the speakers; the number is the delay of an answer"
        )


def _draw_conversation(axes: Axes, heard: Heard, name: str, span_sec: tuple[float, float]) -> None:
    for whose, speech in (("user", heard.user_N2), ("model", heard.model_N2)):
        spoken = _within(inter_pausal_units(speech), span_sec)
        bars = [(start, end - start) for start, end in spoken]
        axes.broken_barh(bars, (_ROWS[whose] - _HEIGHT / 2, _HEIGHT), color=_COLOURS[whose], alpha=0.75)
    events = find_events(heard.user_N2, heard.model_N2)
    for kind in ("overlap", "gap"):
        for start, end in _within(events[kind], span_sec):
            axes.axvspan(start, end, color=_COLOURS[kind], alpha=0.15, linewidth=0)
    for end, start in _within(_answers(heard), span_sec):
        axes.annotate(
            "", xy=(start, _ROWS["model"] - _HEIGHT / 2), xytext=(end, _ROWS["user"] + _HEIGHT / 2),
            arrowprops={"arrowstyle": "->", "color": "black", "linewidth": 0.8},
        )  # fmt: skip
        box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        axes.text((start + end) / 2, 0.5, f"{start - end:.2f} s", fontsize="small", ha="center", va="center", bbox=box)
    _write_words(axes, heard, span_sec)
    axes.set(xlim=span_sec, ylim=(-0.5, 1.75), yticks=list(_ROWS.values()), yticklabels=["user", name])
    axes.grid(axis="x")


def _within(intervals_N2: np.ndarray, span_sec: tuple[float, float]) -> np.ndarray:
    return intervals_N2[(intervals_N2[:, 1] > span_sec[0]) & (intervals_N2[:, 0] < span_sec[1])]


def _answers(heard: Heard) -> np.ndarray:
    """From each end of the user's turns to the model's next start, `[N, 2]`, where the model was silent at that end."""
    turns = joined(heard.user_N2, TURN_SILENCE_SEC)
    spoken = inter_pausal_units(heard.model_N2)
    found = []
    for place, (_, end) in enumerate(turns):
        until = turns[place + 1, 0] if place + 1 < len(turns) else heard.duration_sec
        later = spoken[(spoken[:, 0] >= end) & (spoken[:, 0] < min(until, end + RESPONSE_SEC))]
        is_silent = not ((spoken[:, 0] < end) & (spoken[:, 1] > end)).any()
        if is_silent and len(later):
            found.append((end, later[0, 0]))
    return np.array(found).reshape(-1, 2)


def _write_words(axes: Axes, heard: Heard, span_sec: tuple[float, float]) -> None:
    if heard.words is None:
        axes.text(0.995, 0.97, "words unknown", transform=axes.transAxes, ha="right", va="top", fontsize="x-small")
        return
    shown = [word for word in heard.words if span_sec[0] <= word.start_sec < span_sec[1]]
    for place, word in enumerate(shown):
        height = _ROWS["model"] + _HEIGHT / 2 + (0.05, 0.22, 0.39)[place % 3]
        axes.text(word.start_sec, height, word.text, fontsize="x-small", clip_on=True)


def plot_sweep(points: Sequence[dict[str, Any]], path: str | Path, human: dict[str, Any] | None = None) -> None:
    """Response delay against takeovers in pauses, a point for each bias; both are better towards the lower left.

    Args:
        points: `{"text_pad_bias", "numbers"}` in order of the bias.
        human: the human's numbers on the same conversations.
    """
    delay, pause = "response_delay_median_sec", "pause_takeover_rate"
    drawn = [(point["text_pad_bias"], point["numbers"]) for point in points if {delay, pause} <= set(point["numbers"])]
    absent = [f"{point['text_pad_bias']:g}" for point in points if not {delay, pause} <= set(point["numbers"])]
    with saved_figure(path, 1, 1, (6.5, 4.6)) as (figure, panels):
        axes = panels[0, 0]
        axes.plot([n[delay] for _, n in drawn], [n[pause] for _, n in drawn], "o-", color="tab:orange", label="model")
        for bias, numbers in drawn:
            label = (
                f" {bias:g} (answers {numbers['response_rate']:.0%})" if "response_rate" in numbers else f" {bias:g}"
            )
            axes.annotate(label, (numbers[delay], numbers[pause]), fontsize="small")
        if human is not None and {delay, pause} <= set(human):
            axes.plot(human[delay], human[pause], "*", color="tab:blue", markersize=12, label="human")
        axes.set(xlabel="median response delay (s)", ylabel="takeovers in the user's pauses", ylim=(-0.05, 1.05))
        axes.margins(x=0.25)
        axes.grid()
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
        left_out = f"\nno answer, or no pause, at {', '.join(absent)}" if absent else ""
        figure.suptitle(f"What the bias of the text's PAD does (numbers: the bias){left_out}")
