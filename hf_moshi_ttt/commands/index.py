"""Index a folder of audio: a JSON line a file with its `path`, relative to the index, and `duration` in seconds.

Durations are read from headers. A run that was killed continues where it stopped.

    hf-moshi-ttt index LIBRILIGHT --output librilight.jsonl --min-duration-sec 60
"""

import argparse
import math
from dataclasses import asdict
from typing import Any

from ..data.bad_files import MAX_BAD_FRACTION
from .parser import add_json, number, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("root", help="folder of audio; of speaker/book/chapter.flac both are noted")
    parser.add_argument("--output", required=True, help="the index to write, e.g. librilight_train.jsonl")
    parser.add_argument("--min-duration-sec", type=float, default=0.0, help="leave out shorter files")
    parser.add_argument("--max-duration-sec", type=float, default=math.inf, help="leave out longer files")
    parser.add_argument("--min-snr", type=float, help="leave out files with a lower snr in their JSON, or none")
    parser.add_argument("--speakers", nargs="+", help="keep only these speakers")
    parser.add_argument("--check", action="store_true", help="decode every file: headers do not show all damage")
    parser.add_argument("--data-dir", help="folder that all files must lie in, links followed (the indexed one)")
    parser.add_argument("--num-threads", type=whole(1), default=8, help="files read at once (%(default)s)")
    parser.add_argument(
        "--max-bad-fraction", type=number(0, 1), default=MAX_BAD_FRACTION, help="unusable files allowed (%(default)s)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the index and says what is in it; returns the counts."""
    from ..data.index import IndexOptions, build_index

    options = IndexOptions(
        min_duration_sec=arguments.min_duration_sec,
        max_duration_sec=arguments.max_duration_sec,
        min_snr=arguments.min_snr,
        speakers=None if arguments.speakers is None else frozenset(arguments.speakers),
        check=arguments.check,
        data_dir=arguments.data_dir,
        num_threads=arguments.num_threads,
        max_bad_fraction=arguments.max_bad_fraction,
    )
    summary = build_index(arguments.root, arguments.output, options)
    print(f"{summary.files} files, {summary.hours:.2f} hours, indexed in {arguments.output}")
    for reason, count in summary.filtered.items():
        print(f"{count} files left out: {reason}")
    if summary.bad.reasons:
        print(
            f"{len(summary.bad.reasons)} files cannot be used; see the list with reasons beside the index (.bad.json)"
        )
    return {**asdict(summary), "bad": summary.bad.reasons, "output": arguments.output}
