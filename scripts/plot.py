"""Draws the curves of a training run: `python scripts/plot.py RUN` writes RUN/curves.png and RUN/memory.png."""

import argparse
from pathlib import Path

from hf_moshi_ttt.evaluation.memory_curves import memory_by_step
from hf_moshi_ttt.evaluation.memory_plot import plot_memory
from hf_moshi_ttt.memory.diagnostics import LOG_PREFIX
from hf_moshi_ttt.training.run_files import read_metrics
from hf_moshi_ttt.training.training_plot import plot_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="output_dir of a run, finished or not")
    run = Path(parser.parse_args().run)
    entries = read_metrics(run)
    plot_training(entries, run / "curves.png", str(run))
    drawn = [run / "curves.png"]
    if any(name.startswith(LOG_PREFIX) for entry in entries for name in entry):
        plot_memory(memory_by_step(entries), run / "memory.png")
        drawn.append(run / "memory.png")
    print(*drawn, sep="\n")


if __name__ == "__main__":
    main()
