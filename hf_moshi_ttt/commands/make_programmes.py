"""Build long recordings in which what was said returns: refrains, dictations, rolls and cumulative tales.

Each recording has a speaker of its own, made of espeak-ng's voices, and a room. What returns is said again, seconds or
minutes later; no held-out text or voice is in training. Running it again with the same options continues where it
stopped.

    hf-moshi-ttt make-programmes data/programmes --train-hours 20 --eval-minutes 60
    hf-moshi-ttt prepare data/programmes/librilight/train --codec DIR --output data/programmes/codes/train
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .parser import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("out_dir", type=Path, help="folder to build in")
    parser.add_argument("--train-hours", type=float, default=10.0, help="speech to train on (%(default)s)")
    parser.add_argument("--eval-minutes", type=float, default=60.0, help="held-out speech (%(default)s)")
    parser.add_argument(
        "--spread",
        type=float,
        default=0.0,
        help="how much pitch and rate change from saying to saying, a fraction; 0: what returns sounds the same",
    )
    parser.add_argument(
        "--on-frames", action="store_true", help="every line begins on a border of the codec's frames of 80 ms"
    )
    parser.add_argument("--no-rooms", action="store_true", help="without rooms, channels and noise")
    parser.add_argument(
        "--voices", type=int, default=1, help="speakers of a recording, who say what returns in turn (%(default)s)"
    )
    parser.add_argument("--num-proc", type=int, default=2, help="processes that speak (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides who says what (%(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Builds everything; prints and returns what was made."""
    from ..demo.programmes import Delivery, ProgrammesRequest, make_programmes

    delivery = Delivery(arguments.spread, arguments.on_frames, not arguments.no_rooms, arguments.voices)
    request = ProgrammesRequest(arguments.train_hours, arguments.eval_minutes, arguments.seed, delivery)
    made = make_programmes(arguments.out_dir, request, arguments.num_proc)
    print(json.dumps({"splits": made["splits"]}, indent=1))
    return made
