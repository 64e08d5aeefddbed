"""The whole product on real audio, offline: data, interrupted training, fine-tuning, evaluation, speech out."""

import argparse
from pathlib import Path

from hf_moshi_ttt.demo.stages import SIZES, demo_stages, run_stages, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="folder for everything (%(default)s)")
    parser.add_argument(
        "--size", choices=list(SIZES), default="full", help="'smoke' only shows that it runs (%(default)s)"
    )
    arguments = parser.parse_args()
    rows = run_stages(
        demo_stages(arguments.root, SIZES[arguments.size]), arguments.root, lambda text: print(text, flush=True)
    )
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
