"""The Space of the metric."""

from pathlib import Path

import evaluate

from hf_moshi_ttt.evaluation.metric_widget import interface

FOLDER = Path(__file__).parent
EXAMPLE = [[[3.0, 2.5, 2.0, 1.75, 1.5, 1.25], [3.2, 2.4, 2.1, 1.9, 1.4, 1.3]]]
SETTINGS = {"window": 2, "bin_frames": 1, "positions_frames": [3, 5]}

if __name__ == "__main__":
    interface(evaluate.load(str(FOLDER)), FOLDER, EXAMPLE, SETTINGS).launch()
