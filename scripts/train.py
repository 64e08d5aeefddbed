"""Trains TTT-Moshi: `python scripts/train.py CONFIG.yaml [key=value ...]`, also under `accelerate launch`.

Several YAML files may be given, later ones on top. After SIGTERM a checkpoint is saved and the exit code is 143.
"""

import argparse
import sys

from hf_moshi_ttt.settings import read_settings, split_words
from hf_moshi_ttt.training.arguments import describe_settings
from hf_moshi_ttt.training.run import dry_run, run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=describe_settings(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="CONFIG.yaml|key=value", help="settings of the run, see below")
    parser.add_argument(
        "--dry-run", action="store_true", help="report parameters, memory, data and time after three steps, and stop"
    )
    arguments = parser.parse_args()
    files, changes = split_words(arguments.settings)
    if not files:
        parser.error("no CONFIG.yaml was given (see configs/)")
    settings = read_settings(files, changes)
    if arguments.dry_run:
        return dry_run(settings, lambda title, line: print(f"{title:<8}{line}", flush=True))
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
