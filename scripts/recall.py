r"""Trains small models from scratch on a task that only a memory solves, and says which of them solve it.

python scripts/recall.py --task motif --arms full,window,static,ttt --steps 150 --output DIR        # 4 minutes
python scripts/recall.py --task refrain --arms full,static,ttt --seeds 0 1 2 --output DIR \
    --train-codes runs/demo/codes/librilight_train --test-codes runs/demo/codes/librilight_heldout

Writes DIR/recall.json and draws DIR/recall.png from it. Each run is a process with one thread; finished runs are kept
in DIR/runs and not made again with the same settings.
"""

import argparse
import json
from pathlib import Path

from hf_moshi_ttt.training.recall_plot import plot_recall
from hf_moshi_ttt.training.recall_report import table
from hf_moshi_ttt.training.recall_run import run_arm
from hf_moshi_ttt.training.recall_series import RecallRequest, run_series
from hf_moshi_ttt.training.recall_setup import ARMS, SPEECH_TASKS, TASKS
from hf_moshi_ttt.training.run_files import write_whole


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=TASKS)
    parser.add_argument(
        "--arms",
        default=",".join(ARMS),
        help="arms, each NAME or NAME+key=value with keys of the ttt section, parted by commas (%(default)s)",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(%(default)s)")
    parser.add_argument("--steps", type=int, help="of training (the task's)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (%(default)s)")
    speech = parser.add_argument_group(f"speech, for {', '.join(SPEECH_TASKS)}")
    speech.add_argument("--train-codes", help="folder of encoded recordings (scripts/prepare_data.py)")
    speech.add_argument("--test-codes", help="folder of held-out ones")
    speech.add_argument("--codec", help="name or path of their codec (as their provenance says)")
    speech.add_argument("--num-ids", type=int, default=64, help="groups of codebook 0's ids (%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="sizes and schedule, such as hidden_size=192")
    return parser.parse_intermixed_args()


def main() -> None:
    arguments = vars(parse_arguments())
    output, arms = arguments.pop("output"), arguments.pop("arms").split(",")
    results = run_series(RecallRequest.parse(arms=arms, **arguments), output, run_arm)
    write_whole(output / "recall.json", json.dumps(results, indent=1) + "\n")
    plot_recall(results, output / "recall.png")
    print(table(results["summary"]))
    print(f"{output / 'recall.json'}, {output / 'recall.png'}")


if __name__ == "__main__":
    main()
