"""Encodes an indexed corpus once to int16 codes on disk; training and evaluation read nothing else."""

import argparse

from hf_moshi_ttt.data.codes import encode_corpus
from hf_moshi_ttt.data.manifests import load_dailytalk, load_librilight


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", help="index of a corpus (.jsonl)")
    parser.add_argument("--kind", required=True, choices=["librilight", "dailytalk"])
    parser.add_argument("--codec", default="kyutai/mimi", help="name or path of a codec (%(default)s)")
    parser.add_argument("--text-tokenizer", help="SentencePiece model for the words of conversations")
    parser.add_argument("--output", required=True, help="folder for the codes")
    parser.add_argument("--device", default="cpu", help="where the codec runs (%(default)s)")
    arguments = parser.parse_args()
    corpus = {"librilight": load_librilight, "dailytalk": load_dailytalk}[arguments.kind](arguments.index)
    codes = encode_corpus(corpus, arguments.codec, arguments.output, arguments.text_tokenizer, arguments.device)
    hours = sum(codes["duration_sec"]) / 3600
    print(f"{len(codes)} recordings, {hours:.2f} hours encoded in {arguments.output}")


if __name__ == "__main__":
    main()
