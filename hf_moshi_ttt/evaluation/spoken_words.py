"""Words with times: from a model's own text row, and from transcripts in the form of Full-Duplex-Bench.

A text row has one token a frame; a word's time is that of its pieces' frames (`codec/text_pieces.py`).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.audio import sec_from_frames
from ..codec.text_pieces import TextPieces, words_of_pieces
from ..data.text_files import read_json
from .speech_times import Word


def words_of_text_row(text_T: np.ndarray, tokenizer: Any, silent_ids: Sequence[int]) -> list[Word]:
    """The words of a text row `[T]`, in order.

    Args:
        tokenizer: SentencePiece.
        silent_ids: PAD and EPAD.
    """
    text = TextPieces(tokenizer, silent_ids)
    words = words_of_pieces(text.piece(token) for token in text_T.tolist())
    return [Word(word, sec_from_frames(first), sec_from_frames(end)) for word, first, end in words]


def write_transcript(words: Sequence[Word], path: Path) -> None:
    """Writes words in the benchmark's form, `{"text", "chunks": [{"text", "timestamp": [start, end]}]}`."""
    chunks = [{"text": word.text, "timestamp": [word.start_sec, word.end_sec]} for word in words]
    content = {"text": " ".join(word.text for word in words), "chunks": chunks}
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def read_transcript(path: Path) -> list[Word]:
    """The words of a transcript in the benchmark's form; a word without an end ends where it begins.

    Raises:
        ValueError: not such a transcript.
    """
    try:
        chunks = read_json(path)["chunks"]
        timed = [(chunk["text"], *chunk["timestamp"]) for chunk in chunks if chunk["timestamp"][0] is not None]
        return [_word(text, start, start if end is None else end) for text, start, end in timed]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f'{path}: not a transcript with times; expected {{"chunks": [{{"text": ..., "timestamp": [start, end]}}]}} '
            f"({type(error).__name__}: {error})."
        ) from error


def words_from(source: Any) -> list[Word] | None:
    """Words from a transcript's path, or from `[text, start_sec, end_sec]` each; None is None, not known.

    Raises:
        ValueError: not such a transcript, or not such words.
    """
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        return read_transcript(Path(source))
    try:
        return [_word(*word) for word in source]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"words must be [text, start_sec, end_sec] each, in seconds ({error}).") from error


def _word(text: str, start: Any, end: Any) -> Word:
    word = Word(text.strip(), float(start), float(end))
    if not 0 <= word.start_sec <= word.end_sec < math.inf:
        raise ValueError(f"{word.text!r} from {start} s to {end} s is no span of time")
    return word
