"""Words of a text row with their times, and transcripts written and read."""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from hf_moshi_ttt.codec.audio import frames_from_sec
from hf_moshi_ttt.codec.text_stream import EPAD_ID, PAD_ID, build_text_row
from hf_moshi_ttt.evaluation.speech_times import Word
from hf_moshi_ttt.evaluation.spoken_words import read_transcript, words_of_text_row, write_transcript


@pytest.fixture
def tokenizer(tokenizer_path: str) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=tokenizer_path)


def test_words_come_back_at_their_frames(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    said = [("ab", 0.4), ("c", 1.2), ("dad", 2.0)]
    row = build_text_row([{"word": word, "start_sec": at} for word, at in said], frames_from_sec(4), tokenizer).ids
    found = words_of_text_row(row, tokenizer, [PAD_ID, EPAD_ID])
    assert [(word.text, word.start_sec) for word in found] == said
    assert all(word.start_sec < word.end_sec <= word.start_sec + 0.08 * 4 for word in found)


@pytest.mark.parametrize("row", [[PAD_ID] * 4, [-1, EPAD_ID, -1], []])
def test_rows_that_say_nothing_have_no_words(row: list[int], tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    assert words_of_text_row(np.array(row, int), tokenizer, [PAD_ID, EPAD_ID]) == []


def test_a_piece_without_a_beginning_is_a_word_at_the_start(tokenizer: sentencepiece.SentencePieceProcessor) -> None:
    (piece,) = [token for token in tokenizer.encode("ab") if not tokenizer.id_to_piece(token).startswith("▁")][-1:]
    (word,) = words_of_text_row(np.array([PAD_ID, piece]), tokenizer, [PAD_ID, EPAD_ID])
    assert (word.start_sec, word.end_sec) == (0.08, 0.16)


def test_transcripts_are_written_and_read(tmp_path: Path) -> None:
    words = [Word("hello", 0.5, 0.75), Word("wörld", 1.0, 1.5)]
    write_transcript(words, tmp_path / "output.json")
    assert json.loads((tmp_path / "output.json").read_text())["text"] == "hello wörld"
    assert read_transcript(tmp_path / "output.json") == words


def test_words_without_an_end_end_where_they_begin(tmp_path: Path) -> None:
    chunks = [{"text": " a", "timestamp": [0.5, None]}, {"text": "b", "timestamp": [None, None]}]
    (tmp_path / "output.json").write_text(json.dumps({"text": "a b", "chunks": chunks}), encoding="utf-8-sig")
    assert read_transcript(tmp_path / "output.json") == [Word("a", 0.5, 0.5)]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"chunks": [{"text": "a"}]}', '{"chunks": [{"text": "a", "timestamp": []}]}']
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "output.json").write_text(text)
    with pytest.raises(ValueError, match="output.json: not a transcript with times; expected .*chunks"):
        read_transcript(tmp_path / "output.json")
