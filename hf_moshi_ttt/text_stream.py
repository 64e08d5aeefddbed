"""Words with times as the text row of a recording: one token a frame.

A word's tokens stand from the frame in which it starts, PAD fills the gaps, and the frame before a word is EPAD. Tokens
that do not fit before the next word are shifted behind it, never lost inside the recording. This follows
moshi-finetune's interleaver with `keep_and_shift`, whose ends are in frames where ours are in seconds.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from .audio import FRAME_RATE_HZ, frames_from_sec
from .hub_files import HUB_SCHEME, local_file

EPAD_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3


@dataclass
class TextRow:
    """The text row `ids` `[T]` int16 and the number of tokens that lie behind the recording's end."""

    ids: np.ndarray
    tokens_beyond_end: int


def load_text_tokenizer(path: str | Path) -> sentencepiece.SentencePieceProcessor:
    """Kyutai's or another SentencePiece model, by path or by its name on the Hub (`hf://owner/repository/file`).

    Raises:
        ValueError: no such file, no SentencePiece model in it, or a vocabulary beyond int16.
    """
    if str(path).startswith(HUB_SCHEME):
        path = local_file(path)
    if not Path(path).is_file():
        raise ValueError(f"{path}: no SentencePiece model. Train one with scripts/train_text_tokenizer.py.")
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: not a SentencePiece model ({error}).") from error
    if tokenizer.vocab_size() > np.iinfo(np.int16).max:
        raise ValueError(f"{path}: {tokenizer.vocab_size()} ids do not fit in int16; codes are stored as int16.")
    return tokenizer


def train_text_tokenizer(text: str | Path, output: str | Path, vocab_size: int) -> None:
    """Trains a SentencePiece model on a text file, with Moshi's meaning of ids 0 to 3 (EPAD, bos, eos, PAD).

    Characters outside the text are spelled in bytes (256 pieces), so no word turns into EPAD, the unknown id.

    Raises:
        ValueError: the output is no .model file, or the vocabulary does not suit the text.
    """
    if Path(output).suffix != ".model":
        raise ValueError(f"{output}: the output must end in .model.")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    try:
        _train(text, str(Path(output).with_suffix("")), vocab_size)
    except RuntimeError as error:
        raise ValueError(f"vocab_size={vocab_size} does not suit {text}: {error}") from error


def _train(text: str | Path, prefix: str, vocab_size: int) -> None:
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=prefix,
        vocab_size=vocab_size,
        unk_id=EPAD_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        pad_id=PAD_ID,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
    )


def build_text_row(
    words: Sequence[dict[str, Any]], duration_sec: float, tokenizer: sentencepiece.SentencePieceProcessor
) -> TextRow:
    """The text row of a recording.

    Args:
        words: `{word, start_sec, end_sec, ...}` of Moshi's speaker, in order of their starts.
    """
    row = np.full(frames_from_sec(duration_sec), PAD_ID, dtype=np.int16)
    coming = deque((int(word["start_sec"] * FRAME_RATE_HZ), tokenizer.encode(word["word"].strip())) for word in words)
    waiting: deque[int] = deque()
    for frame in range(len(row)):
        while coming and coming[0][0] <= frame:
            waiting.extend(coming.popleft()[1])
        if waiting:
            if frame and row[frame - 1] == PAD_ID:
                row[frame - 1] = EPAD_ID
            row[frame] = waiting.popleft()
    return TextRow(row, len(waiting) + sum(len(tokens) for _, tokens in coming))
