"""What Moshi says, token by token, in the words of its SentencePiece tokenizer, and these words with their frames."""

import codecs
from collections.abc import Collection, Iterable
from typing import Any

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark


class TextPieces:
    """The text of one stream as its tokens come.

    Characters that the tokenizer spells in bytes come with their last byte; bytes that make none as U+FFFD.

    Args:
        tokenizer: a SentencePiece processor, or None for a model without text: all pieces are empty.
        silent: ids that say nothing, such as PAD.
    """

    def __init__(self, tokenizer: Any, silent: Collection[int]) -> None:
        self.tokenizer, self.silent = tokenizer, silent
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def unfinished(self) -> bytes:
        """The bytes of a character that is not whole yet."""
        return self._bytes.getstate()[0]

    def resume(self, unfinished: bytes) -> None:
        """Goes on after the bytes of an unfinished character."""
        self._bytes.setstate((unfinished, 0))

    def piece(self, token: int) -> str:
        """The text of the next token, with a space where a word starts; empty for silent and absent (-1) tokens."""
        if self.tokenizer is None or token < 0 or token in self.silent or token >= self.tokenizer.vocab_size():
            return ""
        if self.tokenizer.is_control(token):
            return ""
        if self.tokenizer.is_byte(token):
            return self._bytes.decode(bytes.fromhex(self.tokenizer.id_to_piece(token)[3:5]))  # "<0x41>"
        return self._bytes.decode(b"", final=True) + self.tokenizer.id_to_piece(token).replace(_WORD_START, " ")


def words_of_pieces(pieces: Iterable[str]) -> list[tuple[str, int, int]]:
    """The words of the pieces of consecutive frames, in order, with its first frame and the one after its last.

    A piece that begins with a space begins a word, and so does the first piece.
    """
    words: list[tuple[str, int, int]] = []
    for frame, piece in enumerate(pieces):
        if piece.startswith(" ") or (piece and not words):
            words.append(("", frame, frame))
        if piece:
            text, first, _ = words[-1]
            words[-1] = (text + piece, first, frame + 1)
    return [(text.strip(), first, end) for text, first, end in words if text.strip()]
