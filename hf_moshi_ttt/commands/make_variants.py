"""Encode recordings a second time in other forms: off the frame grid, with noise, at another pitch and rate.

The file is for `recall --task variants`: a passage is heard as it is and returns in another form.

    hf-moshi-ttt make-variants runs/demo/corpus/librilight/heldout --codec runs/demo/codec \\
        --output runs/variants/heldout.safetensors
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .parser import add_json

FORMS = (
    "same",
    "phase_0.5",
    "phase_0.25",
    "noise_40db",
    "noise_30db",
    "noise_20db",
    "noise_10db",
    "rate_0.95",
    "rate_0.9",
    "rate_1.1",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("audio_dir", type=Path, help="folder of audio of any rate, mono or not")
    parser.add_argument("--codec", required=True, help="name or path of the codec that made the codes to train on")
    parser.add_argument("--output", type=Path, required=True, help="file to write (.safetensors)")
    parser.add_argument(
        "--forms",
        default=",".join(FORMS),
        help="same, phase_X, noise_Ndb, rate_X, or several joined by +; parted by commas (%(default)s)",
    )
    parser.add_argument("--most", type=int, help="recordings that are taken, the first ones by path (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Encodes and writes; returns where everything comes from."""
    from collections import Counter

    from ..data.bad_files import BadFiles
    from ..data.variants import make_variants
    from ..data.walk import walk_audio

    bad = BadFiles()
    names = list(walk_audio(arguments.audio_dir, bad, Counter[str]()))
    bad.require_few(len(names) + len(bad.reasons))
    paths = sorted(arguments.audio_dir / name for name in names)[: arguments.most]
    origin = make_variants(paths, arguments.codec, arguments.output, arguments.forms.split(","), arguments.seed)
    minutes = sum(origin.durations_sec) / 60
    print(f"{arguments.output}: {len(paths)} recordings, {minutes:.1f} minutes, in the forms {', '.join(origin.forms)}")
    return {"output": str(arguments.output), **asdict(origin)}
