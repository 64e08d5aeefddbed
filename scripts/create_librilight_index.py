"""Indexes a folder of audiobooks: a JSON line a file with its `path`, relative to the index, and `duration` in seconds.

Durations are read from headers. A run that was killed continues where it stopped.
"""

import argparse
import math

from hf_moshi_ttt.data.bad_files import MAX_BAD_FRACTION
from hf_moshi_ttt.data.index import IndexOptions, build_index


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="folder of speaker/book/chapter.flac files")
    parser.add_argument("--output", required=True, help="the index to write, e.g. librilight_train.jsonl")
    parser.add_argument("--min-duration-sec", type=float, default=0.0, help="leave out shorter files")
    parser.add_argument("--max-duration-sec", type=float, default=math.inf, help="leave out longer files")
    parser.add_argument("--min-snr", type=float, help="leave out files with a lower snr in their JSON, or none")
    parser.add_argument("--speakers", nargs="+", help="keep only these speakers")
    parser.add_argument("--check", action="store_true", help="decode every file: headers do not show all damage")
    parser.add_argument("--data-dir", help="folder that all files must lie in, links followed (the indexed one)")
    parser.add_argument("--num-threads", type=int, default=8, help="files read at once (%(default)s)")
    parser.add_argument(
        "--max-bad-fraction", type=float, default=MAX_BAD_FRACTION, help="unusable files allowed (%(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    arguments = vars(parse_arguments())
    root, output, speakers = (arguments.pop(key) for key in ("root", "output", "speakers"))
    options = IndexOptions(speakers=None if speakers is None else frozenset(speakers), **arguments)
    summary = build_index(root, output, options)
    print(f"{summary.files} files, {summary.hours:.2f} hours, indexed in {output}")
    for reason, count in summary.filtered.items():
        print(f"{count} files left out: {reason}")
    if summary.bad.reasons:
        print(
            f"{len(summary.bad.reasons)} files cannot be used; see the list with reasons beside the index (.bad.json)"
        )


if __name__ == "__main__":
    main()
