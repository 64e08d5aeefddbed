"""Indexes a folder of audiobooks: a JSON line a file with `path`, relative to the index, and `duration` in seconds."""

import argparse
import json
from pathlib import Path

from hf_moshi_ttt.data.manifests import BadFiles, index_audio, write_index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="folder of speaker/book/chapter.flac files")
    parser.add_argument("--output", required=True, help="the index to write, e.g. librilight_train.jsonl")
    arguments = parser.parse_args()
    bad = BadFiles()
    entries = list(index_audio(arguments.root, bad))
    if bad.reasons:
        report = Path(arguments.output).with_suffix(".bad.json")
        report.write_text(json.dumps(bad.reasons, indent=1), encoding="utf-8")
        print(f"{len(bad.reasons)} files left out, listed in {report}")
    bad.require_few(len(entries) + len(bad.reasons))
    count = write_index(entries, arguments.output, arguments.root)
    print(f"{count} files indexed in {arguments.output}")


if __name__ == "__main__":
    main()
