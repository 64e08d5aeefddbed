"""Words with times as the text row of a recording: one token a frame.

A word's tokens begin in the frame in which it starts, PAD fills the gaps, and the frame before a word is EPAD. Tokens
that do not fit before the next word are shifted after it, never lost inside the recording. After the labels' end the
row is -1: whether somebody speaks there is unknown, so nothing is learned from it.

moshi-finetune's `Interleaver` (as its training calls it) places the first token of a word alike and differs in this:

- tokens of a word that do not fit before the next word are dropped there (`keep_and_shift` is off), shifted here;
- words without duration are dropped there, kept here;
- a segment's first frames lose the tokens of a word that began before it there; here a segment is a piece of the
  recording's row;
- the frames between the last label and the recording's end are PAD there, -1 here;
- after the end of a recording's last, short segment the row is PAD there, and trained, since its length is handed over
  in frames where seconds are expected; here the row is as long as the codes beside it, and batches pad both with -1.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from ..special_ids import NO_INPUT_ID
from .audio import Frames, frame_at_sec
from .hub_files import HUB_SCHEME, expand_home, local_file

EPAD_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3


@dataclass
class TextRow:
    """The text row `ids` `[T]` int16 and the number of tokens that lie after the recording's end."""

    ids: np.ndarray
    tokens_beyond_end: int


def load_text_tokenizer(path: str | Path) -> sentencepiece.SentencePieceProcessor:
    """Kyutai's or another SentencePiece model, by path or by its name on the Hub (`hf://owner/repository/file`).

    Raises:
        ValueError: no such file, no SentencePiece model in it, or a vocabulary beyond int16.
    """
    path = local_file(path) if str(path).startswith(HUB_SCHEME) else expand_home(path)
    if not Path(path).is_file():
        raise ValueError(f"{path}: no SentencePiece model. Train one with hf-moshi-ttt train-tokenizer.")
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError as error:
        raise ValueError(f"{path}: not a SentencePiece model ({error}).") from error
    if tokenizer.vocab_size() > np.iinfo(np.int16).max:
        raise ValueError(f"{path}: {tokenizer.vocab_size()} ids do not fit in int16; codes are stored as int16.")
    return tokenizer


def tokenizer_sha256(path: str | Path) -> str:
    """The hash of a SentencePiece model's file, by which it is known."""
    with local_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    words: Sequence[dict[str, Any]],
    frames: Frames,
    tokenizer: sentencepiece.SentencePieceProcessor,
    labelled_frames: Frames | None = None,
) -> TextRow:
    """The text row of a recording or of a part of it.

    Args:
        words: `{word, start_sec, ...}` of Moshi's speaker in order of their starts, from the row's start on; words that
            start before it have negative times, and what is left of them comes first.
        frames: length of the row, that of the codes beside it.
        labelled_frames: up to where all words are listed, None for everywhere. Tokens that are shifted after it stay.

    Raises:
        ValueError: a number of frames that is not a whole number, such as seconds.
    """
    for name, value in (("frames", frames), ("labelled_frames", labelled_frames)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise ValueError(f"{name}={value!r}, but it must be a whole number of frames: use frames_from_sec.")
    row = np.full(frames, PAD_ID, dtype=np.int16)
    coming = deque((frame_at_sec(word["start_sec"]), tokenizer.encode(word["word"].strip())) for word in words)
    waiting: deque[int] = deque()
    labelled: int = frames if labelled_frames is None else labelled_frames
    for frame in range(min(0, coming[0][0]) if coming else 0, frames):
        while coming and coming[0][0] <= frame:
            waiting.extend(coming.popleft()[1])
        if waiting:
            token = waiting.popleft()
            if frame >= 0:
                row[frame] = token
                labelled = max(labelled, frame + 1)
            if frame > 0 and row[frame - 1] == PAD_ID:
                row[frame - 1] = EPAD_ID
    row[labelled:] = NO_INPUT_ID
    return TextRow(row, len(waiting) + sum(len(tokens) for _, tokens in coming))
