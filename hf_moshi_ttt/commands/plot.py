"""Draw the curves of a training run, finished or not: RUN/curves.png and, with TTT layers, RUN/memory.png.

hf-moshi-ttt plot runs/mine
"""

import argparse
from pathlib import Path
from typing import Any

from .parser import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("run", type=Path, help="output_dir of a run, finished or not")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draws the pictures, and prints and returns their paths."""
    from ..evaluation.memory_curves import memory_by_step
    from ..evaluation.memory_plot import plot_memory
    from ..memory.diagnostics import LOG_PREFIX
    from ..training.run_files import read_metrics
    from ..training.training_plot import plot_training

    folder = arguments.run
    entries = read_metrics(folder)
    plot_training(entries, folder / "curves.png", str(folder))
    drawn = [folder / "curves.png"]
    if any(name.startswith(LOG_PREFIX) for entry in entries for name in entry):
        plot_memory(memory_by_step(entries), folder / "memory.png")
        drawn.append(folder / "memory.png")
    print(*drawn, sep="\n")
    return {"pictures": [str(path) for path in drawn]}
