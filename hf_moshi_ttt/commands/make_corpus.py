"""Build the demo's corpus offline: narrated books, human speech and two-channel conversations, with text to train on.

Running it again with the same sizes and seed continues where it stopped.

    hf-moshi-ttt make-corpus data/corpus --train-hours 5 --eval-minutes 60 --conversations 60
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .parser import SEED, add_json, number, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("out_dir", type=Path, help="folder to build in")
    parser.add_argument(
        "--train-hours", type=number(0, is_open=True), default=5.0, help="speech to train on (%(default)s)"
    )
    parser.add_argument(
        "--eval-minutes", type=number(0, is_open=True), default=60.0, help="held-out speech (%(default)s)"
    )
    parser.add_argument(
        "--conversations", type=whole(1), default=60, help="dialogues; a tenth of them is held out (%(default)s)"
    )
    parser.add_argument("--num-proc", type=whole(1), default=2, help="processes that synthesise (%(default)s)")
    parser.add_argument(
        "--seed", type=SEED, default=0, help="decides what is read by whom, and all noise (%(default)s)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Builds everything; prints and returns what was made."""
    from ..demo.corpus import CorpusRequest, make_corpus

    request = CorpusRequest(arguments.train_hours, arguments.eval_minutes, arguments.conversations, arguments.seed)
    made = make_corpus(arguments.out_dir, request, arguments.num_proc)
    print(json.dumps({"splits": made["splits"], "stages": made["stages"]}, indent=1))
    return made
