"""Words with times become one token a frame, by moshi-finetune's rule and losing none; ids 0 to 3 are Moshi's.

Expected rows are written as pieces: "-" is PAD, "E" is EPAD, "x" is -1, "_" the tokenizer's mark before a word. The
tokenizer knows nothing but single letters, so that the word "ab" is always the three tokens "_ a b".
"""

import random
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from hf_moshi_ttt.codec.audio import Frames, frames_from_sec
from hf_moshi_ttt.codec.text_stream import build_text_row, load_text_tokenizer, train_text_tokenizer
from hf_moshi_ttt.demo.debian_packages import PROMPTS_PACKAGE

from ..fixtures.corpora import unpacked
from ..fixtures.speech import SPOKEN, real_conversation

LETTERS = "abcdefgh"
Words = list[tuple[str, float]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceProcessor:
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "\n".join(" ".join(pair) for pair in product(LETTERS, LETTERS))
    (folder / "text.txt").write_text(text)
    train_text_tokenizer(folder / "text.txt", folder / "letters.model", vocab_size=4 + 256 + 1 + len(LETTERS))
    return load_text_tokenizer(folder / "letters.model")


def timed(words: Words) -> list[dict[str, Any]]:
    return [{"word": word, "start_sec": start_sec, "end_sec": start_sec + 0.01} for word, start_sec in words]


def pieces(ids: np.ndarray, tokenizer: SentencePieceProcessor) -> str:
    names = {0: "E", 3: "-", -1: "x"}
    return " ".join(names.get(int(i)) or tokenizer.id_to_piece(int(i)).replace("▁", "_") for i in ids)


# Rows worked out by hand from moshi-finetune's Interleaver with keep_and_shift=True: at frame t every word with
# start * 12.5 < t + 1 joins the queue, one token leaves it, and a PAD before that token turns into EPAD.
FINETUNE_ROWS: list[tuple[str, Words, str]] = [
    ("nothing said", [], "- - - - - - - - - -"),
    ("one word", [("ab", 0.30)], "- - E _ a b - - - -"),
    ("at the very start there is no frame for EPAD", [("ab", 0.0)], "_ a b - - - - - - -"),
    ("at a frame's first instant", [("a", 0.24)], "- - E _ a - - - - -"),
    ("just before it", [("a", 0.2399)], "- E _ a - - - - - -"),
    ("a gap of two", [("a", 0.0), ("b", 0.33)], "_ a - E _ b - - - -"),
    ("a gap of one is EPAD alone", [("a", 0.0), ("b", 0.25)], "_ a E _ b - - - - -"),
    ("no gap, no EPAD", [("a", 0.0), ("b", 0.17)], "_ a _ b - - - - - -"),
    ("too long for its time, the next is shifted", [("abc", 0.0), ("d", 0.17)], "_ a b c _ d - - - -"),
    ("shifts add up, then the row catches up", [("ab", 0.0), ("cd", 0.1), ("e", 0.65)], "_ a b _ c d - E _ e"),
    ("an empty word takes no frame", [("", 0.26), ("a", 0.30)], "- - E _ a - - - - -"),
    ("two words in one frame", [("a", 0.26), ("b", 0.30)], "- - E _ a _ b - - -"),
    ("in the last frame, cut off by the end", [("ab", 0.75)], "- - - - - - - - E _"),
    ("behind the end", [("a", 0.81)], "- - - - - - - - - -"),
    ("blanks around a word", [(" a ", 0.0)], "_ a - - - - - - - -"),
]


@pytest.mark.parametrize(
    ("words", "expected"), [row[1:] for row in FINETUNE_ROWS], ids=[row[0] for row in FINETUNE_ROWS]
)
def test_rows_of_moshi_finetune(tokenizer: SentencePieceProcessor, words: Words, expected: str) -> None:
    row = build_text_row(timed(words), frames_from_sec(0.8), tokenizer)
    assert pieces(row.ids, tokenizer) == expected
    assert row.ids.dtype == np.int16


def test_a_word_without_duration_is_kept(tokenizer: SentencePieceProcessor) -> None:
    """moshi-finetune drops it; forced alignments have such words, and here none is lost."""
    row = build_text_row([{"word": "a", "start_sec": 0.1, "end_sec": 0.1}], frames_from_sec(0.4), tokenizer)
    assert pieces(row.ids, tokenizer) == "E _ a - -"


@pytest.mark.parametrize(("duration_sec", "frames"), [(0.01, 1), (0.08, 1), (0.081, 2), (60.0, 750)])
def test_a_row_has_a_token_for_every_frame(tokenizer: SentencePieceProcessor, duration_sec: float, frames: int) -> None:
    assert build_text_row([], frames_from_sec(duration_sec), tokenizer).ids.tolist() == [3] * frames


@pytest.mark.parametrize(
    ("words", "beyond"),
    [([("ab", 0.0)], 0), ([("abcd", 0.25)], 3), ([("abc", 0.25), ("d", 0.33), ("e", 9.0)], 6), ([("a", 0.4)], 2)],
)
def test_tokens_behind_the_end_are_counted(tokenizer: SentencePieceProcessor, words: Words, beyond: int) -> None:
    assert build_text_row(timed(words), frames_from_sec(0.4), tokenizer).tokens_beyond_end == beyond


@pytest.mark.parametrize("seed", range(50))
def test_nothing_is_lost_reordered_or_early(tokenizer: SentencePieceProcessor, seed: int) -> None:
    rng = random.Random(seed)
    starts = sorted(rng.uniform(0, 8) for _ in range(rng.randrange(1, 40)))
    words = [("".join(rng.choices(LETTERS, k=rng.randrange(1, 6))), start_sec) for start_sec in starts]
    row = build_text_row(timed(words), frames_from_sec(8.0), tokenizer)
    frames = [frame for frame, token in enumerate(row.ids) if token not in (0, 3)]
    said = [(token, start_sec) for word, start_sec in words for token in tokenizer.encode(word)]
    assert row.ids[frames].tolist() + [token for token, _ in said[len(frames) :]] == [token for token, _ in said]
    assert row.tokens_beyond_end == len(said) - len(frames)
    for frame, (_, start_sec) in zip(frames, said, strict=False):
        assert frame + 1 > start_sec * 12.5  # not before its word
        assert frame <= start_sec * 12.5 or row.ids[frame - 1] not in (0, 3)  # waiting only while others speak
    after_epad = [row.ids[frame + 1] for frame in np.flatnonzero(row.ids == 0)]
    assert all(token not in (0, 3) for token in after_epad)
    after_pad = [row.ids[frame + 1] for frame in np.flatnonzero(row.ids[:-1] == 3)]
    assert all(token in (0, 3) for token in after_pad)


@pytest.mark.parametrize("value", [0.8, 10.0, np.float64(3), True, -1, "5"])
def test_seconds_are_not_taken_for_frames(tokenizer: SentencePieceProcessor, value: Any) -> None:
    with pytest.raises(ValueError, match="frames=.* must be a whole number of frames: use frames_from_sec"):
        build_text_row([], value, tokenizer)
    with pytest.raises(ValueError, match="labelled_frames=.* must be a whole number of frames"):
        build_text_row([], frames_from_sec(1.0), tokenizer, value)


@pytest.mark.parametrize(
    ("labelled", "expected"),
    [
        (10, "- E _ a b - - - - -"),
        (7, "- E _ a b - - x x x"),
        (3, "- E _ a b x x x x x"),  # tokens shifted after the labels' end are still known
        (0, "- E _ a b x x x x x"),
    ],
)
def test_what_is_not_labelled_is_not_pad(tokenizer: SentencePieceProcessor, labelled: int, expected: str) -> None:
    row = build_text_row(timed([("ab", 0.17)]), frames_from_sec(0.8), tokenizer, Frames(labelled))
    assert pieces(row.ids, tokenizer) == expected
    nothing = build_text_row([], frames_from_sec(0.8), tokenizer, Frames(labelled))
    assert nothing.ids.tolist() == [3] * labelled + [-1] * (10 - labelled)


@pytest.mark.parametrize("seed", range(20))
def test_a_window_is_a_piece_of_the_recordings_row(tokenizer: SentencePieceProcessor, seed: int) -> None:
    """Words of the time before the window come with negative starts, so tokens that still wait are not lost."""
    rng = random.Random(seed)
    starts = sorted(rng.uniform(0, 8) for _ in range(30))
    words = timed([("".join(rng.choices(LETTERS, k=rng.randrange(1, 6))), start_sec) for start_sec in starts])
    whole = build_text_row(words, frames_from_sec(8.0), tokenizer).ids
    first = rng.randrange(1, 60)
    moved = [{**word, "start_sec": word["start_sec"] - first / 12.5} for word in words]
    part = build_text_row([word for word in moved if word["start_sec"] < 3.2], frames_from_sec(3.2), tokenizer).ids
    expected = whole[first : first + 40].copy()
    if expected[-1] == 0:  # the word after it is not the window's
        expected[-1] = 3
    assert part.tolist() == expected.tolist()


def test_segments_of_a_row_equal_the_row_for_words_on_frame_borders(tokenizer: SentencePieceProcessor) -> None:
    """Times in hundredths of a second, of which every eighth lies on a border, less the start of a window."""
    words = timed([("a", hundredth / 100) for hundredth in range(4, 6000, 57)])
    whole = build_text_row(words, frames_from_sec(60.0), tokenizer).ids
    assert [frame for frame, token in enumerate(whole) if token == 0] == [
        hundredth // 8 - 1 for hundredth in range(4, 6000, 57) if hundredth >= 8
    ]
    for first in range(0, 700, 9):
        moved = [{**word, "start_sec": word["start_sec"] - first * 0.08} for word in words]
        part = build_text_row([word for word in moved if word["start_sec"] < 3.2], frames_from_sec(3.2), tokenizer).ids
        assert part[:-1].tolist() == whole[first : first + 39].tolist()


def published_row(
    words: list[dict[str, Any]], frames: int, tokenizer: SentencePieceProcessor, keep_and_shift: bool
) -> list[int]:
    """moshi-finetune's `Interleaver` restated; compared by hand with the original on 70 conversations."""
    row, queue = [3] * frames, []
    coming = [word for word in words if word["start_sec"] < word["end_sec"]]
    for frame in range(frames):
        while coming and coming[0]["start_sec"] * 12.5 < frame + 1:
            queue = (queue if keep_and_shift else []) + tokenizer.encode(coming.pop(0)["word"].strip())
        if queue:
            if frame and row[frame - 1] == 3:
                row[frame - 1] = 0
            row[frame] = queue.pop(0)
    return row


@pytest.fixture(scope="module")
def real_words(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], float]:
    """Words of a real speaker, spelt so that many take longer than they are spoken, and the recording's length."""
    spoken = real_conversation(unpacked(tmp_path_factory, PROMPTS_PACKAGE), turns=21, seed=1, gap_sec=0.02)
    words = [
        {"word": " ".join(word), "start_sec": start_sec, "end_sec": end_sec}
        for speaker, word, start_sec, end_sec in spoken.truth
        if speaker == "SPEAKER_MAIN"
    ]
    return words, spoken.duration_sec


@pytest.fixture(scope="module")
def spelling_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentencePieceProcessor:
    """A tokenizer that knows nothing but the single letters of those words."""
    folder = tmp_path_factory.mktemp("spelling")
    letters = sorted({letter for word in SPOKEN.values() for letter in word})
    (folder / "text.txt").write_text("\n".join(" ".join(pair) for pair in product(letters, letters)))
    train_text_tokenizer(folder / "text.txt", folder / "letters.model", vocab_size=4 + 256 + 1 + len(letters))
    return load_text_tokenizer(folder / "letters.model")


def test_the_published_rule_with_shifting_is_ours_on_real_speech(
    real_words: tuple[list[dict[str, Any]], float], spelling_tokenizer: SentencePieceProcessor
) -> None:
    words, duration_sec = real_words
    frames = frames_from_sec(duration_sec)
    ours = build_text_row(words, frames, spelling_tokenizer)
    assert ours.ids.tolist() == published_row(words, frames, spelling_tokenizer, keep_and_shift=True)
    assert len(words) > 30 and ours.tokens_beyond_end < 10


def test_the_published_rule_loses_tokens_that_ours_keeps(
    real_words: tuple[list[dict[str, Any]], float], spelling_tokenizer: SentencePieceProcessor
) -> None:
    """The differences that the module lists, on real speech."""
    words, duration_sec = real_words
    frames = frames_from_sec(duration_sec)
    said = [token for word in words for token in spelling_tokenizer.encode(word["word"])]
    ours = build_text_row(words, frames, spelling_tokenizer)
    published = published_row(words, frames, spelling_tokenizer, keep_and_shift=False)
    tokens = [token for token in ours.ids.tolist() if token not in (0, 3)]
    assert tokens + said[len(tokens) :] == said
    assert sum(token not in (0, 3) for token in published) < 0.9 * len(said)
    instant = [{**word, "end_sec": word["start_sec"]} for word in words]
    assert set(published_row(instant, frames, spelling_tokenizer, keep_and_shift=True)) == {3}
    assert np.array_equal(build_text_row(instant, frames, spelling_tokenizer).ids, ours.ids)
    labelled = frames_from_sec(words[-1]["end_sec"])
    masked = build_text_row(words, frames, spelling_tokenizer, labelled).ids
    end = max(labelled, int(np.flatnonzero(masked >= 0)[-1]) + 1)
    assert end < frames and (masked[end:] == -1).all() and published[-1] in (0, 3)


def test_ids_0_to_3_of_a_trained_tokenizer_are_moshis(tokenizer: SentencePieceProcessor) -> None:
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()) == (0, 1, 2, 3)
    assert tokenizer.vocab_size() == 269
    assert min(tokenizer.encode("a b c d e f g h")) >= 4


def test_a_character_outside_the_text_is_spelled_in_bytes_and_never_epad(tokenizer: SentencePieceProcessor) -> None:
    row = build_text_row(timed([("☃", 0.0)]), frames_from_sec(0.8), tokenizer)
    assert pieces(row.ids, tokenizer) == "_ <0xE2> <0x98> <0x83> - - - - - -"


@pytest.mark.parametrize(
    ("output", "size", "message"),
    [("t.v1", 300, r"t\.v1: the output must end in \.model"), ("t.model", 20_000, "vocab_size=20000 does not suit")],
)
def test_impossible_training_is_refused(tmp_path: Path, output: str, size: int, message: str) -> None:
    (tmp_path / "text.txt").write_text("a b\n" * 9)
    with pytest.raises(ValueError, match=message):
        train_text_tokenizer(tmp_path / "text.txt", tmp_path / output, size)


def test_training_twice_gives_the_same_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 20 + "the dog and the cat ran\n" * 20)
    for name in ("first", "second"):
        train_text_tokenizer(tmp_path / "text.txt", tmp_path / f"{name}.model", vocab_size=256 + 19)
    first, second = (load_text_tokenizer(tmp_path / f"{name}.model") for name in ("first", "second"))
    assert [first.id_to_piece(i) for i in range(275)] == [second.id_to_piece(i) for i in range(275)]
    assert first.decode(first.encode("the cat ran")) == "the cat ran"


def test_a_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=re.escape("no.model: no SentencePiece model. Train one with hf-moshi-ttt train-tok")
    ):
        load_text_tokenizer(tmp_path / "no.model")


def test_a_name_on_the_hub_is_understood() -> None:
    with pytest.raises(ValueError, match="hf://owner: expected hf://owner/repository/file"):
        load_text_tokenizer("hf://owner")


def test_another_file_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "text.model").write_text("no model")
    with pytest.raises(ValueError, match=r"text\.model: not a SentencePiece model"):
        load_text_tokenizer(tmp_path / "text.model")


def test_a_vocabulary_beyond_int16_is_refused(tmp_path: Path) -> None:
    model = sentencepiece_model_pb2.ModelProto()
    model.pieces.add(piece="<unk>", type=2)
    for index in range(40_000 - 1):
        model.pieces.add(piece=f"p{index}", score=-1.0)
    (tmp_path / "big.model").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=r"big\.model: 40000 ids do not fit in int16; codes are stored as int16"):
        load_text_tokenizer(tmp_path / "big.model")
