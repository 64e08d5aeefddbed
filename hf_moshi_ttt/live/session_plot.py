"""A picture of a session: the time of each frame, and what its memory did."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..codec.audio import FRAME_RATE_HZ, sec_from_frames

_MEMORY_PANELS = {"norm": "norm of what was learned", "write_strength": "strength of the write"}


def plot_session(path: str | Path, frame_ms: Sequence[float], memory: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Frame times beside the 80 ms of real time, and each layer's norm and write strength.

    Args:
        memory: `memory_stats` after each frame; empty for a model without memory.
    """
    figure = Figure(figsize=(8, 7), layout="constrained")
    times, *panels = figure.subplots(1 + len(_MEMORY_PANELS), sharex=True)
    seconds = [sec_from_frames(frame + 1) for frame in range(len(frame_ms))]
    times.plot(seconds, frame_ms, label="a frame")
    times.axhline(1e3 / FRAME_RATE_HZ, color="black", linestyle=":", label="real time")
    times.set_ylabel("time of a frame (ms)")
    for axes, (name, label) in zip(panels, _MEMORY_PANELS.items(), strict=True):
        _draw_layers(axes, seconds, memory, name)
        axes.set_ylabel(label)
    for axes in (times, *panels):
        axes.margins(y=0.2)
        axes.set_ylim(bottom=0)
        if axes.lines:
            axes.legend()
    panels[-1].set_xlabel("seconds")
    figure.savefig(path)


def _draw_layers(axes: Axes, seconds: Sequence[float], memory: Sequence[Sequence[dict[str, Any]]], name: str) -> None:
    for index, layer in enumerate(memory[0] if memory else ()):
        values = [float("nan") if stats[index][name] is None else stats[index][name] for stats in memory]
        axes.plot(seconds, values, label=f"layer {layer['layer']}")
