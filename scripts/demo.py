"""The whole product on real audio, offline: data, interrupted training, fine-tuning, evaluation, speech out."""

import argparse
from pathlib import Path

from hf_moshi_ttt.demo.stages import SIZES, Demo, run_stages, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs/demo"), help="folder for everything (%(default)s)")
    parser.add_argument(
        "--size", choices=list(SIZES), default="full", help="'smoke' only shows that it runs (%(default)s)"
    )
    parser.add_argument("--codec", help="name or path, e.g. kyutai/mimi; without it a small codec is fitted")
    parser.add_argument("--text-tokenizer", help="a SentencePiece model, e.g. Kyutai's; without it one is trained")
    arguments = parser.parse_args()
    demo = Demo(arguments.root, SIZES[arguments.size], arguments.codec, arguments.text_tokenizer)
    rows = run_stages(demo.stages(), demo.root, lambda text: print(text, flush=True))
    print("\n" + table(rows))


if __name__ == "__main__":
    main()
