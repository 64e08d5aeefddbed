"""Train a small SentencePiece model, for work where Kyutai's own model file cannot be had.

hf-moshi-ttt train-tokenizer sentences.txt --output tokenizer.model
"""

import argparse
from typing import Any

from .parser import add_json, whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("text", help="text file, one sentence or paragraph a line")
    parser.add_argument("--output", required=True, help="the .model file to write")
    parser.add_argument("--vocab-size", type=whole(1), default=2000, help="number of pieces (%(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and writes the model; returns its file and size."""
    from ..codec.text_stream import train_text_tokenizer

    train_text_tokenizer(arguments.text, arguments.output, arguments.vocab_size)
    print(f"{arguments.vocab_size} pieces in {arguments.output}")
    return {"output": arguments.output, "pieces": arguments.vocab_size}
