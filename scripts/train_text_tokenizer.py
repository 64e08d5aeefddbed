"""Trains a small SentencePiece model, for work where Kyutai's own model file cannot be had."""

import argparse

from hf_moshi_ttt.codec.text_stream import train_text_tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", help="text file, one sentence or paragraph a line")
    parser.add_argument("--output", required=True, help="the .model file to write")
    parser.add_argument("--vocab-size", type=int, default=2000, help="number of pieces (%(default)s)")
    arguments = parser.parse_args()
    train_text_tokenizer(arguments.text, arguments.output, arguments.vocab_size)
    print(f"{arguments.vocab_size} pieces in {arguments.output}")


if __name__ == "__main__":
    main()
