"""Batches have every stream in its row and labels only where something is learned; the docstring's example is true."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.transformer.losses import code_losses

X = -100  # no loss


def config(**changes: Any) -> MoshiTTTConfig:
    """Two codebooks of 32 ids, 64 text ids, so K = 5."""
    return MoshiTTTConfig.from_preset("tiny", num_codebooks=2, **changes)


def segment(codes: list[list[int]], recording: int = 0, start_frame: int = 0) -> dict[str, Any]:
    return {"codes": np.array(codes, dtype=np.int16), "recording": recording, "start_frame": start_frame}


MONO = [[7, 8], [1, 2]]
TALK = [[3, 0, 9], [1, 2, 3], [4, 5, 6], [11, 12, 13], [14, 15, 16]]


def test_the_example_of_the_docstring() -> None:
    """Reads the matrices of the docstring: the segment, the codes and the labels, side by side."""
    lists = [re.findall(r"\[\[?\s*(-?\d+(?:,\s*-?\d+)+)\]", line) for line in MoshiTTTCollator.__doc__.splitlines()]
    rows = [[[int(number) for number in row.split(",")] for row in line] for line in lists if line]
    assert [len(row) for row in rows] == [3, 3, 2, 2, 2]
    mono, codes, labels = [row[0] for row in rows[:2]], [row[-2] for row in rows], [row[-1] for row in rows]
    assert (mono, codes[1], labels[0]) == ([[7, 8], [1, 2]], [7, 8, -1], [-100, -100, -100])
    batch = MoshiTTTCollator(config())([segment(mono), segment([[1, 1, 1], [2, 2, 2]])])
    assert batch["codes"].shape == batch["labels"].shape == (2, 5, 3)
    assert batch["codes"][0].tolist() == codes
    assert batch["labels"][0].tolist() == labels


@pytest.mark.parametrize(("text_stream", "text_id"), [("zero", 0), ("pad", 3), ("none", -1)])
def test_the_text_row_of_mono_recordings(text_stream: str, text_id: int) -> None:
    codes, labels = MoshiTTTCollator(config(text_stream=text_stream)).frame_codes(np.array(MONO))
    assert codes[0].tolist() == [text_id, text_id]
    assert labels[0].tolist() == [X, X]


def test_the_zero_text_stream_is_the_models_epad_and_the_pad_stream_its_pad() -> None:
    for text_stream, text_id in [("zero", 5), ("pad", 6)]:
        collator = MoshiTTTCollator(config(text_stream=text_stream, end_pad_token_id=5, pad_token_id=6))
        assert collator.frame_codes(np.array(MONO))[0][0].tolist() == [text_id, text_id]


@pytest.mark.parametrize(
    ("user_stream", "user_rows"),
    [("duplicate", MONO), ("silence", [[21, 21], [22, 22]]), ("none", [[-1, -1], [-1, -1]])],
)
def test_the_users_rows_of_mono_recordings(user_stream: str, user_rows: list[list[int]]) -> None:
    codes, labels = MoshiTTTCollator(config(user_stream=user_stream), [21, 22]).frame_codes(np.array(MONO))
    assert codes.tolist() == [[0, 0], *MONO, *user_rows]
    assert labels.tolist() == [[X, X], *MONO, [X, X], [X, X]]


@pytest.mark.parametrize("changes", [{}, {"text_stream": "none", "user_stream": "silence"}], ids=str)
def test_conversations_stay_as_they_are_and_learn_text_too(changes: dict[str, str]) -> None:
    codes, labels = MoshiTTTCollator(config(**changes), [21, 22]).frame_codes(np.array(TALK))
    assert codes.tolist() == TALK
    assert labels.tolist() == [*TALK[:3], [X, X, X], [X, X, X]]


def test_absent_codes_carry_no_loss() -> None:
    absent = [[-1, 0, 9], [1, -1, 3], [4, 5, -1], [11, -1, 13], [14, 15, 16]]
    codes, labels = MoshiTTTCollator(config()).frame_codes(np.array(absent))
    assert codes.tolist() == absent
    assert labels[:3].tolist() == [[X, 0, 9], [1, X, 3], [4, 5, X]]


def test_mono_and_conversations_share_a_batch_with_padding() -> None:
    batch = MoshiTTTCollator(config())([segment(MONO, recording=4, start_frame=250), segment(TALK, recording=2)])
    assert batch["codes"].dtype == batch["labels"].dtype == torch.int64
    assert batch["lengths"].tolist() == [2, 3]
    assert batch["mask"].tolist() == [[True, True, False], [True, True, True]]
    assert batch["starts_recording"].tolist() == [False, True]
    assert batch["recording"].tolist() == [4, 2]
    assert batch["start_frame"].tolist() == [250, 0]
    assert batch["codes"].tolist() == [[[0, 0, -1], [7, 8, -1], [1, 2, -1], [7, 8, -1], [1, 2, -1]], TALK]
    assert batch["labels"][0].tolist() == [[X] * 3, [7, 8, X], [1, X, X], [X] * 3, [X] * 3]


def test_weights_are_those_of_the_losses() -> None:
    """Text: PAD and EPAD count less. Audio: codebook 0 counts more; a segment's delayed last frame is not predicted."""
    changes = {"text_padding_weight": 0.25, "first_codebook_weight_multiplier": 100.0}
    batch = MoshiTTTCollator(config(**changes))([segment(MONO), segment(TALK)])
    assert batch["weights"].tolist() == [
        [[0, 0, 0], [100, 100, 0], [1, 0, 0]],
        [[0.25, 0.25, 1], [100, 100, 100], [1, 1, 0]],
    ]
    assert config().delays == [0, 0, 1, 0, 1]


def test_weighted_targets_give_the_losses_of_the_model(make_model: Callable[..., Any]) -> None:
    model = make_model(num_codebooks=2, first_codebook_weight_multiplier=7.0)
    batch = MoshiTTTCollator(model.config)([segment(MONO), segment(TALK)])
    output = model(codes=batch["codes"], labels=batch["labels"])
    weights = batch["weights"]
    own = code_losses(output.audio_logits, batch["labels"][:, 1:3]).nan_to_num()
    assert torch.allclose((own * weights[:, 1:]).sum() / weights[:, 1:].sum(), output.audio_loss)
    text = code_losses(output.text_logits, batch["labels"][:, 0])
    assert torch.allclose((text * weights[:, 0]).sum() / weights[:, 0].sum(), output.text_loss)


def test_an_empty_row_is_all_padding() -> None:
    empty = {"codes": None, "recording": -1, "start_frame": -1, "starts_recording": True, "frame_rate_hz": 12.5}
    batch = MoshiTTTCollator(config())([segment(MONO), empty])
    assert batch["codes"][1].unique().tolist() == [-1] and batch["labels"][1].unique().tolist() == [X]
    assert (batch["lengths"].tolist(), batch["recording"].tolist()) == ([2, 0], [0, -1])
    alone = MoshiTTTCollator(config())([empty])
    assert alone["codes"].shape == (1, 5, 1) and not alone["mask"].any() and not alone["weights"].any()


def test_other_frame_rates_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"A batch with segments of \[12\.5, 25\.0\] frames a second, but Moshi has 12\.5"
    ):
        MoshiTTTCollator(config())([segment(MONO), {**segment(MONO), "frame_rate_hz": 25.0}])


def test_segments_are_left_as_they_were() -> None:
    given = segment(MONO)
    batch = MoshiTTTCollator(config())([given])
    batch["codes"] += 1
    assert given["codes"].tolist() == MONO


@pytest.mark.parametrize("shape", [(3, 4), (17, 4), (2, 0), (2,), (1, 2, 4)])
def test_segments_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    found = re.escape(str(list(shape)))
    with pytest.raises(ValueError, match=rf"A segment must be \[2, T\] or \[5, T\] with T > 0; got {found}"):
        MoshiTTTCollator(config())([{"codes": np.zeros(shape), "recording": 0, "start_frame": 0}])


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        (0, 64, r"text codes must lie in -1\.\.63; got 0\.\.64"),
        (0, -2, r"text codes must lie in -1\.\.63; got -2\.\.9"),
        (2, 32, r"audio codes must lie in -1\.\.31; got 1\.\.32\. Were they made with another codec or tokenizer"),
        (4, 2047, r"audio codes must lie in -1\.\.31; got 1\.\.2047"),
        (3, -100, r"audio codes must lie in -1\.\.31; got -100\.\.16"),
    ],
)
def test_ids_out_of_range_are_refused(row: int, code: int, message: str) -> None:
    codes = np.array(TALK)
    codes[row, 0] = code
    with pytest.raises(ValueError, match=message):
        MoshiTTTCollator(config()).frame_codes(codes)


@pytest.mark.parametrize("kind", [np.float32, np.bool_])
def test_codes_that_are_no_whole_numbers_are_refused(kind: type) -> None:
    collator = MoshiTTTCollator(config())
    with pytest.raises(
        ValueError, match=f"Codes are {np.dtype(kind)}, but ids are whole numbers: give an integer type"
    ):
        collator([{"codes": np.ones((2, 3), kind)}])


def test_the_largest_ids_are_allowed() -> None:
    codes = np.array(TALK)
    codes[:, 0] = [63, 31, 31, 31, 31]
    assert MoshiTTTCollator(config()).frame_codes(codes)[1][:3, 0].tolist() == [63, 31, 31]


def test_silence_needs_its_codes() -> None:
    with pytest.raises(ValueError, match='user_stream="silence" needs silence_codes; the provenance of the codes'):
        MoshiTTTCollator(config(user_stream="silence"))
