"""Losses by position: blocks equal single frames equal the forward pass, also where the model chooses the text."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.evaluation.streamed_losses import BlockReader, losses_by_frame, run_block
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import random_codes

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
CLOSE = dict(rtol=1e-4, atol=1e-4, equal_nan=True)
FRAMES = 70  # four windows and a mini-batch that is not whole


def nothing(frames: int) -> None:
    pass


def free_text(codes: Tensor) -> Tensor:
    codes = codes.clone()
    codes[:, 0] = -2
    return codes


@torch.no_grad()
def losses_of_forward(model: Any, codes: Tensor) -> Tensor:
    """`[B, Q, T]` by log-softmax of one forward pass; NaN where a code is absent."""
    logits, own = model(codes).audio_logits, codes[:, 1:9]
    found = -logits.log_softmax(-1).gather(-1, own.clamp_min(0)[..., None])[..., 0]
    return found.masked_fill(own < 0, torch.nan)


@torch.no_grad()
def greedy_text(model: Any, codes: Tensor) -> Tensor:
    """The text that the model chooses frame by frame, its codes being otherwise given."""
    state, text = model.init_state(len(codes)), []
    for frame in range(codes.shape[2]):
        step = model.step_with_logits(free_text(codes)[:, :, frame], state)
        state = step.state
        text.append(step.codes[:, 0])
    return torch.stack(text, dim=1)


@pytest.mark.parametrize("learner", ["ttt", "static", "gated_delta", None])
@pytest.mark.parametrize("text", ["given", "free"])
def test_blocks_equal_frames_equal_forward(make_model: MakeModel, learner: str | None, text: str) -> None:
    model = make_model(ttt=None if learner is None else {"learner": learner})
    codes = random_codes(model.config, 3, FRAMES)
    if text == "free":
        codes[:, 0] = greedy_text(model, codes)
        assert len(codes[:, 0].unique()) > 10
    expected = losses_of_forward(model, codes)
    read = free_text(codes) if text == "free" else codes
    by_frame, _ = losses_by_frame(model, read, model.init_state(3), nothing)
    assert by_frame.dtype == torch.float32
    torch.testing.assert_close(by_frame, expected, **CLOSE)
    for block_frames in (1, 7, 64, 500):
        in_blocks, _ = BlockReader(model, block_frames).losses(read, model.init_state(3), nothing)
        torch.testing.assert_close(in_blocks, expected, **CLOSE)


def test_what_has_no_prediction_is_nan_and_nothing_else(make_model: MakeModel) -> None:
    model = make_model()
    codes = random_codes(model.config, 2, 20, absent=0)
    codes[1, 4, 7] = -1
    for losses in (
        losses_by_frame(model, codes, model.init_state(2), nothing)[0],
        BlockReader(model, 6).losses(codes, model.init_state(2), nothing)[0],
    ):
        missing = torch.zeros(2, 8, 20, dtype=torch.bool)
        missing[:, 1:, -1] = True
        missing[1, 3, 7] = True
        assert torch.equal(losses.isnan(), missing)


@pytest.mark.parametrize("text", ["given", "free"])
def test_both_readings_continue_each_other(make_model: MakeModel, text: str) -> None:
    model = make_model()
    codes = random_codes(model.config, 2, FRAMES)
    codes = free_text(codes) if text == "free" else codes
    whole, _ = losses_by_frame(model, codes, model.init_state(2), nothing)
    _, state = BlockReader(model, 9).losses(codes[:, :, :31], model.init_state(2), nothing)
    single, _ = losses_by_frame(model, codes[:, :, 31:32], state.clone(), nothing)
    assert single[:, 1:].isnan().all()  # what the step says of frame 30 is no loss of frame 31
    rest, state = losses_by_frame(model, codes[:, :, 31:45], state, nothing)
    torch.testing.assert_close(rest[:, :, :-1], whole[:, :, 31:44], **CLOSE)
    rest, _ = BlockReader(model, 9).losses(codes[:, :, 45:], state, nothing)
    torch.testing.assert_close(rest, whole[:, :, 45:], **CLOSE)


@pytest.mark.parametrize("text", ["given", "free"])
def test_recordings_that_have_ended_are_not_read_on(make_model: MakeModel, text: str) -> None:
    model, lengths, read = make_model(), [60, 33, 32, 9], []
    codes = random_codes(model.config, 4, 60)
    codes = free_text(codes) if text == "free" else codes
    forward = model.forward
    model.forward = lambda codes, **options: read.append(len(codes)) or forward(codes, **options)
    losses, state = BlockReader(model, 16).losses(codes, model.init_state(4), nothing, lengths)
    assert sorted(set(read)) == [1, 2, 3, 4] and state.batch_size == 1
    for row, length in enumerate(lengths):
        alone, _ = losses_by_frame(model, codes[row : row + 1, :, :length], model.init_state(1), nothing)
        torch.testing.assert_close(losses[row, :, : length - 1], alone[0, :, :-1], **CLOSE)
        torch.testing.assert_close(losses[row, 0, :length], alone[0, 0], **CLOSE)


@pytest.mark.parametrize("expects_guess", [True, False])
def test_a_block_has_the_text_of_single_frames_and_leaves_its_state_alone(
    make_model: MakeModel, expects_guess: bool
) -> None:
    model = make_model()
    codes = random_codes(model.config, 2, 40)
    text = greedy_text(model, codes)
    state = BlockReader(model, 25).losses(free_text(codes)[:, :, :25], model.init_state(2), nothing)[1]
    before = state.clone().named_tensors()
    block = run_block(model, free_text(codes)[:, :, 25:], state, expects_guess)
    assert torch.equal(block.codes[:, 0], text[:, 25:]) and torch.equal(block.codes[:, 1:], codes[:, 1:, 25:])
    assert 1 < block.passes <= 17
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.named_tensors().items())
    assert torch.equal(block.output.state.history[:, 0], text[:, -2:])


def test_given_and_free_text_mix(make_model: MakeModel) -> None:
    """Some of the greedy text given, the rest free: the same text; other text given: it stays."""
    model = make_model()
    codes = random_codes(model.config, 2, 30)
    codes[:, 0] = greedy_text(model, codes)
    given = codes.clone()
    given[0, 0, 5:20], given[1, 0, ::3] = -2, -2
    assert torch.equal(run_block(model, given, model.init_state(2)).codes, codes)
    given[1, 0, 10] = (codes[1, 0, 10] + 1) % 64
    assert run_block(model, given, model.init_state(2)).codes[1, 0, 10] == given[1, 0, 10]


def test_a_model_that_says_nothing_needs_one_pass_a_block(make_model: MakeModel) -> None:
    model = make_model()
    model.lm_head = _ConstantHead(64, best=model.config.pad_token_id)
    reader = BlockReader(model, 128)
    reader.losses(free_text(random_codes(model.config, 2, 256)), model.init_state(2), nothing)
    assert reader.passes == 3  # blocks of 64, 128 and the rest


class _ConstantHead(torch.nn.Module):
    """Text logits that always say the same."""

    def __init__(self, size: int, best: int) -> None:
        super().__init__()
        self.logits = torch.nn.functional.one_hot(torch.tensor(best), size).float()

    def forward(self, hidden: Tensor) -> Tensor:
        return self.logits.expand(*hidden.shape[:-1], -1)


def test_blocks_shrink_where_guesses_fail_and_grow_where_they_hold(make_model: MakeModel) -> None:
    reader = BlockReader(make_model(), block_frames=128)
    assert [reader._next_size(64, passes) for passes in (1, 4, 5, 8, 9)] == [128, 128, 64, 64, 32]
    assert reader._next_size(128, 1) == 128 and reader._next_size(8, 20) == 8


def test_progress_is_told_as_it_is_made(make_model: MakeModel) -> None:
    model, told = make_model(), []
    codes = random_codes(model.config, 1, 20)
    BlockReader(model, 8).losses(codes, model.init_state(1), told.append)
    assert told == [8, 8, 4]
    losses_by_frame(model, codes[:, :, :3], model.init_state(1), told.append)
    assert told[3:] == [1, 1, 1]


@pytest.mark.parametrize(("block_frames", "first"), [(8, 24), (1, 17)])
def test_a_state_is_kept_for_the_check(make_model: MakeModel, block_frames: int, first: int) -> None:
    """Single frames write into the ring in place: what is kept is a copy."""
    model = make_model()
    codes = random_codes(model.config, 1, 60)
    reader = BlockReader(model, block_frames, kept_from=17)
    losses, _ = reader.losses(codes, model.init_state(1), nothing)
    assert reader.kept[0] == first and reader.kept[1].frames.tolist() == [first]
    again, _ = losses_by_frame(model, codes[:, :, first:], reader.kept[1], nothing)
    torch.testing.assert_close(again, losses[:, :, first:], **CLOSE)
