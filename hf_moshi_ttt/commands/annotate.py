"""Write word times beside stereo conversations, from transcripts of many forms, aligned offline where needed.

For NAME.wav (or .flac, .sph, ...) the first of these is read: NAME.words.json (whisper-timestamped), NAME.ctm,
NAME.TextGrid, NAME.vtt, NAME.srt, NAME.txt (a turn a line, `A: text` or `[12.5 17.1] A: text`). Turns name their
speaker: A, 1, left or SPEAKER_MAIN for the left channel, which is Moshi's; B, 2, right or SPEAKER_USER for the right.
Or NAME.user with the same ending is the right channel's transcript.

    hf-moshi-ttt annotate CONVERSATIONS --num-proc 8
    hf-moshi-ttt annotate CONVERSATIONS --transcripts TEXTS --speakers agent,caller
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..data.bad_files import MAX_BAD_FRACTION
from .parser import UsageError, add_json, number, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("source", help="index (.jsonl) or folder of two-channel audio")
    parser.add_argument("--transcripts", type=Path, help="folder of transcripts (beside the audio)")
    parser.add_argument(
        "--speakers",
        metavar="LEFT,RIGHT",
        help="how the transcripts call the speakers of the two channels (A,B and others)",
    )
    parser.add_argument("--data-dir", help="folder that all audio must lie in, links followed (the index's own)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing word times")
    parser.add_argument("--num-proc", type=whole(1), default=1, help="processes that align (%(default)s)")
    parser.add_argument(
        "--max-bad-fraction", type=number(0, 1), default=MAX_BAD_FRACTION, help="unusable files allowed (%(default)s)"
    )
    add_json(parser)


def speakers_of(given: str | None) -> tuple[str, str] | None:
    """The labels of the left and the right channel.

    Raises:
        UsageError: not two different ones, with a comma.
    """
    if given is None:
        return None
    labels = [label.strip() for label in given.split(",")]
    if len(labels) != 2 or not all(labels) or labels[0].lower() == labels[1].lower():
        raise UsageError(
            f"--speakers {given}: give two labels, the left channel's and the right one's, as in agent,caller"
        )
    return labels[0], labels[1]


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
        speakers_of(arguments.speakers),
    )
    print(f"{summary.annotated} files annotated, {summary.kept} had word times already")
    if summary.estimated_words:
        print(f"{summary.estimated_words} words that the aligner does not know are timed between their neighbours")
    if summary.left_out_words:
        print(f"{summary.left_out_words} words without a usable time are left out; NAME.json lists them")
    for path, reason in summary.bad.reasons.items():
        print(f"left out: {path}: {reason}")
    return {**asdict(summary), "bad": summary.bad.reasons}
