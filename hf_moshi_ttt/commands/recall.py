r"""Train small models from scratch on a task that only a memory solves, and say which of them solve it.

    hf-moshi-ttt recall --task motif --arms full,window,static,ttt --steps 150 --output DIR        # 4 minutes
    hf-moshi-ttt recall --task refrain --arms full,static,ttt --seeds 0 1 2 --output DIR \
        --train-codes runs/demo/codes/librilight_train --test-codes runs/demo/codes/librilight_heldout

Writes DIR/recall.json and draws DIR/recall.png from it. Each run is a process with one thread; finished runs are kept
in DIR/runs and not made again with the same settings, codes, source files and versions.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .parser import SEED, add_json, whole, wrong_settings

ARMS = ("full", "window", "static", "ttt", "ttt_all", "gated_delta", "in_place", "e2e", "copy")
TASKS = (
    "motif", "motif8", "control", "loops", "pairs", "refrain", "distance", "variants", "natural", "lines", "shuffled"
)  # fmt: skip
SPEECH_TASKS = ("refrain", "distance", "variants", "natural", "lines", "shuffled")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--task", required=True, choices=TASKS, help="what is to be recalled")
    parser.add_argument(
        "--arms",
        default=",".join(ARMS),
        help="arms, each NAME or NAME+key=value with keys of the ttt section, parted by commas (%(default)s)",
    )
    parser.add_argument(
        "--seeds", type=SEED, nargs="+", default=[0], help="seeds of the runs of each arm (%(default)s)"
    )
    parser.add_argument("--steps", type=whole(1), help="steps of training (the task's own number)")
    parser.add_argument("--output", type=Path, required=True, help="folder for recall.json, recall.png and the runs")
    parser.add_argument("--jobs", type=whole(1), default=2, help="runs side by side (%(default)s)")
    speech = parser.add_argument_group(f"speech, for {', '.join(SPEECH_TASKS)}")
    speech.add_argument("--train-codes", help="folder of encoded recordings (hf-moshi-ttt prepare)")
    speech.add_argument("--test-codes", help="folder of held-out ones")
    speech.add_argument("--codec", help="name or path of their codec (as their provenance says)")
    speech.add_argument("--num-ids", type=whole(1), default=64, help="groups of a codebook's ids (%(default)s)")
    speech.add_argument("--num-codebooks", type=whole(1), default=1, help="first codebooks (%(default)s)")
    speech.add_argument("--variants", help="file of held-out recordings in other forms (hf-moshi-ttt make-variants)")
    speech.add_argument("--train-variants", help="train on passages that return in the forms of this file")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="sizes and schedule, such as hidden_size=192")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains what is not trained yet; writes, draws and returns what came of it."""
    from ..training.recall_plot import plot_recall
    from ..training.recall_report import table
    from ..training.recall_run import run_arm
    from ..training.recall_series import RecallRequest, run_series
    from ..whole_files import write_whole

    given = {key: value for key, value in vars(arguments).items() if key not in ("output", "arms", "debug", "json")}
    output, arms = arguments.output, arguments.arms.split(",")
    with wrong_settings():
        request = RecallRequest.parse(arms=arms, **given)
    results = run_series(request, output, run_arm)
    write_whole(output / "recall.json", json.dumps(results, indent=1) + "\n")
    plot_recall(results, output / "recall.png")
    print(table(results["summary"]))
    print(f"{output / 'recall.json'}, {output / 'recall.png'}")
    return results
