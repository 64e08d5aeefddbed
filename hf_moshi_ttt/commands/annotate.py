"""Write word times beside stereo conversations, from transcripts (aligned offline) or whisper-timestamped's output.

For NAME.wav: NAME.txt with lines `SPEAKER_MAIN: text` (left channel) and `SPEAKER_USER: text` (right), or
NAME.words.json (left) and NAME.user.words.json (right) as whisper-timestamped writes them.

    hf-moshi-ttt annotate CONVERSATIONS --num-proc 8
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.bad_files import MAX_BAD_FRACTION
from .parser import add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("source", help="index (.jsonl) or folder of two-channel audio")
    parser.add_argument("--transcripts", type=Path, help="folder of transcripts (beside the audio)")
    parser.add_argument("--data-dir", help="folder that all audio must lie in, links followed (the index's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing word times")
    parser.add_argument("--num-proc", type=int, default=1, help="processes that align (%(default)s)")
    parser.add_argument(
        "--max-bad-fraction", type=float, default=MAX_BAD_FRACTION, help="unusable files allowed (%(default)s)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes word times and says what was left out; returns the counts."""
    from ..data.annotation import annotate_corpus

    summary = annotate_corpus(
        arguments.source,
        arguments.transcripts,
        arguments.overwrite,
        arguments.num_proc,
        arguments.max_bad_fraction,
        arguments.data_dir,
    )
    print(f"{summary.annotated} files annotated, {summary.kept} had word times already")
    if summary.estimated_words:
        print(f"{summary.estimated_words} words that the aligner does not know are timed between their neighbours")
    if summary.left_out_words:
        print(f"{summary.left_out_words} words without a usable time are left out; NAME.json lists them")
    for path, reason in summary.bad.reasons.items():
        print(f"left out: {path}: {reason}")
    return {**asdict(summary), "bad": summary.bad.reasons}
