"""Trains TTT-Moshi: `python scripts/train.py CONFIG.yaml [key=value ...]`, also under `accelerate launch`.

Several YAML files may be given, later ones on top. After SIGTERM a checkpoint is saved and the exit code is 143.
"""

import argparse
import sys
from pathlib import Path

from hf_moshi_ttt.arguments import describe_settings, read_settings
from hf_moshi_ttt.training_run import run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=describe_settings(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="+", metavar="CONFIG.yaml|key=value", help="settings of the run, see below")
    given = parser.parse_args().settings
    files = [item for item in given if "=" not in item or Path(item).is_file()]
    if not files:
        parser.error("no CONFIG.yaml was given (see configs/)")
    return run(read_settings(files, [item for item in given if item not in files]))


if __name__ == "__main__":
    sys.exit(main())
