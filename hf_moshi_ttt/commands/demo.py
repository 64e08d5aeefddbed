"""Run the whole product offline: a memory that recalls, then real audio, interrupted training, evaluation, speech out.

hf-moshi-ttt demo --size smoke
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="folder for everything (%(default)s)")
    parser.add_argument(
        "--size", choices=("full", "smoke"), default="full", help="'smoke' only shows that it runs (%(default)s)"
    )
    parser.add_argument("--codec", help="name or path, e.g. kyutai/mimi; without it a small codec is fitted")
    parser.add_argument("--text-tokenizer", help="a SentencePiece model, e.g. Kyutai's; without it one is trained")


def run(arguments: argparse.Namespace) -> None:
    """Runs the stages that are not done yet and prints their table."""
    from ..demo.stages import SIZES, Demo, closing_lines, run_stages, table
    from .console import main

    demo = Demo(arguments.root, SIZES[arguments.size], arguments.codec, arguments.text_tokenizer)
    rows = run_stages(demo.stages(), demo.root, lambda text: print(text, flush=True), main)
    print("\n" + table(rows))
    print("\n" + closing_lines(rows))
