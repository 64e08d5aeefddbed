"""Words with times: from a model's own text row, and from transcripts in the form of Full-Duplex-Bench.

A text row has one token a frame. A piece that begins with SentencePiece's space begins a word, whose time is the frame
of that piece; PAD, EPAD and absent tokens say nothing, and a word ends before the next one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..codec.audio import sec_from_frames
from .speech_times import Word

_SPACE = "▁"


def words_of_text_row(text_T: np.ndarray, tokenizer: Any, silent_ids: Sequence[int]) -> list[Word]:
    """The words of a text row `[T]`, in order.

    Args:
        tokenizer: SentencePiece.
        silent_ids: PAD and EPAD.
    """
    words: list[tuple[list[int], int, int]] = []
    for frame, token in enumerate(text_T.tolist()):
        if token < 0 or token in silent_ids:
            continue
        if not words or tokenizer.id_to_piece(token).startswith(_SPACE):
            words.append(([], frame, frame))
        words[-1] = ([*words[-1][0], token], words[-1][1], frame + 1)
    said = [(tokenizer.decode(tokens).strip(), first, end) for tokens, first, end in words]
    return [Word(text, sec_from_frames(first), sec_from_frames(end)) for text, first, end in said if text]


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
        chunks = json.loads(path.read_text(encoding="utf-8"))["chunks"]
        timed = [(chunk["text"], *chunk["timestamp"]) for chunk in chunks if chunk["timestamp"][0] is not None]
        return [Word(text.strip(), float(start), float(start if end is None else end)) for text, start, end in timed]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f'{path}: not a transcript with times; expected {{"chunks": [{{"text": ..., "timestamp": [start, end]}}]}} '
            f"({type(error).__name__}: {error})."
        ) from error
