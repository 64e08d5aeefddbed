"""Tokens as text, also characters that are spelled in bytes."""

from hf_moshi_ttt.codec.text_pieces import TextPieces, words_of_pieces
from hf_moshi_ttt.codec.text_stream import load_text_tokenizer


def test_words_bytes_and_silence(tokenizer_path: str) -> None:
    tokenizer = load_text_tokenizer(tokenizer_path)
    text = TextPieces(tokenizer, {0, 3})
    tokens = [3, 0, -1, *tokenizer.encode("a é"), 9_999]
    assert "".join(text.piece(token) for token in tokens) == " a é"
    first, second = tokenizer.encode("é")[-2:]
    assert [text.piece(token) for token in (first, 3, second)] == ["", "", "é"]


def test_bytes_that_make_no_character_are_marked(tokenizer_path: str) -> None:
    tokenizer = load_text_tokenizer(tokenizer_path)
    text, word = TextPieces(tokenizer, {3}), tokenizer.encode("a")[-1]
    assert text.piece(tokenizer.encode("é")[-2]) + text.piece(word) == "\N{REPLACEMENT CHARACTER}a"


def test_a_model_without_text_says_nothing() -> None:
    assert TextPieces(None, set()).piece(7) == ""


def test_marks_of_a_texts_ends_say_nothing(tokenizer_path: str) -> None:
    tokenizer = load_text_tokenizer(tokenizer_path)
    assert [TextPieces(tokenizer, {3}).piece(token) for token in (tokenizer.bos_id(), tokenizer.eos_id())] == ["", ""]


def test_words_have_their_first_and_last_frames() -> None:
    pieces = ["", "go", "", " he", "", "llo", " ", "you", "", " a", "!", ""]
    assert words_of_pieces(pieces) == [("go", 1, 2), ("hello", 3, 6), ("you", 6, 8), ("a!", 9, 11)]
    assert words_of_pieces(["", " ", ""]) == words_of_pieces([]) == []
