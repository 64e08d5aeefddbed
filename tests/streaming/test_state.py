"""Laws 4 and 7 of the streaming state: rows are isolated, and a state is saved and loaded at any place."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.streaming.state import MoshiTTTState

from ..conftest import random_codes

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]


def heard(model: MoshiTTTForConditionalGeneration, frames: int, batch: int = 3) -> MoshiTTTState:
    with torch.no_grad():
        return model(random_codes(model.config, batch, frames), state=model.init_state(batch)).state


def assert_equal_rows(a: MoshiTTTState, b: MoshiTTTState, rows: list[int]) -> None:
    for (name, x), y in zip(a.named_tensors().items(), b.named_tensors().values(), strict=True):
        assert torch.equal(x[rows], y[rows]), name


@torch.no_grad()
def test_reset_row_is_fresh_and_others_are_bit_equal(make_model: MakeModel) -> None:
    model = make_model()
    state = heard(model, 23)
    reset = state.reset(torch.tensor([False, True, False]))
    assert_equal_rows(reset, state, [0, 2])
    assert_equal_rows(reset, model.init_state(3), [1])
    codes = random_codes(model.config, 3, 30, seed=1)
    after, untouched, fresh = (
        model(codes, state=start.clone()).text_logits for start in (reset, state, model.init_state(3))
    )
    assert torch.equal(after[[0, 2]], untouched[[0, 2]])
    torch.testing.assert_close(after[1], fresh[1], rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_frozen_row_stands_still_and_others_are_bit_equal(make_model: MakeModel) -> None:
    """Row 1 pauses for 7 of 40 frames, past the window of 16, and then continues unchanged."""
    model = make_model()
    codes = random_codes(model.config, 3, 40, seed=1)
    alone = [model(codes[row : row + 1]).text_logits[0] for row in range(3)]
    state, everyone = model.init_state(3), torch.tensor([True, True, True])
    position, running = [0, 0, 0], model.init_state(3)
    for step in range(40):
        active = torch.tensor([True, not 20 <= step < 27, True])
        frame = torch.stack([codes[row, :, position[row]] for row in range(3)])
        output = model.step_with_logits(frame, state, active_rows=active)
        assert_equal_rows(output.state, state, [] if active[1] else [1]) if not active[1] else None
        state = output.state
        full = model.step_with_logits(codes[:, :, step], running, active_rows=everyone)
        running = full.state
        assert torch.equal(output.text_logits[[0, 2]], full.text_logits[[0, 2]])
        for row in range(3):
            if active[row]:
                expected = alone[row][position[row]]
                torch.testing.assert_close(output.text_logits[row], expected, rtol=2e-5, atol=2e-5)
                position[row] += 1
    assert state.frames.tolist() == [40, 33, 40]


@torch.no_grad()
@pytest.mark.parametrize("frames", [0, 3, 4, 41])
def test_saved_state_goes_on_exactly(make_model: MakeModel, tmp_path: Path, frames: int) -> None:
    model = make_model()
    state = heard(model, frames) if frames else model.init_state(3)
    state.save(tmp_path / "state.safetensors", model.config)
    loaded = model.init_state(3).load(tmp_path / "state.safetensors", model.config)
    assert_equal_rows(loaded, state, [0, 1, 2])
    codes = random_codes(model.config, 3, 10, seed=1)
    assert torch.equal(model(codes, state=state).text_logits, model(codes, state=loaded).text_logits)


def test_state_in_the_middle_of_a_mini_batch_holds_its_frames(make_model: MakeModel) -> None:
    memory = heard(make_model(ttt={"preset": "mini_batch"}), 23).memory[0]
    assert memory.position.tolist() == [3, 3, 3]
    assert ((memory.ring_lr > 0).sum(-1) == 3).all()
    assert memory.delta_weights[0].abs().max() > 0


def test_bad_files_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    model, path = make_model(), tmp_path / "state.safetensors"
    model.init_state(3).save(path, model.config)
    with pytest.raises(
        ValueError, match=r"frames is int64 \[3\], but int64 \[2\] in this state .* init_state\(\) of the saved"
    ):
        model.init_state(2).load(path, model.config)
    other = make_model(ttt={"mini_batch_size": 8})
    with pytest.raises(ValueError, match=r"saved with ttt.mini_batch_size=4, but the model has ttt.mini_batch_size=8"):
        other.init_state(3).load(path, other.config)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format None, but a saved state is 'moshi_ttt_state_v2'"):
        model.init_state(3).load(path, model.config)


def test_a_reset_state_without_delays_can_be_saved(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(delays=[0] * 17)
    state = model.generate(max_new_frames=3).state.reset()
    state.save(tmp_path / "state", model.config)
    assert torch.equal(model.init_state(1).load(tmp_path / "state", model.config).history, state.initial[:, :, None])


def test_rows_must_be_a_mask(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"bool tensor of 3 values, one a row; got torch.int64 of shape \[1\]"):
        make_model().init_state(3).reset(torch.tensor([1]))


def test_detach_and_clone_leave_nothing_shared(make_model: MakeModel) -> None:
    model = make_model()
    state = model(random_codes(model.config, 1, 9), state=model.init_state(1)).state
    assert state.memory[0].fast_weights.requires_grad
    assert not any(tensor.requires_grad for tensor in state.detach().named_tensors().values())
    pointers = {tensor.data_ptr() for tensor in state.named_tensors().values()}
    assert not pointers & {tensor.data_ptr() for tensor in state.clone().named_tensors().values()}


@torch.no_grad()
def test_new_segment_carries_the_memory_alone(make_model: MakeModel) -> None:
    model = make_model()
    segment = heard(model, 20).new_segment()
    assert segment.window is None and segment.frames.tolist() == [0, 0, 0]
    codes = random_codes(model.config, 3, 12, seed=1)
    remembered = model(codes, state=segment)
    assert remembered.state.window is None and remembered.state.frames.tolist() == [0, 0, 0]
    fresh = model(codes, state=model.init_state(3, window=False))
    assert torch.equal(fresh.text_logits, model(codes).text_logits)
    assert not torch.equal(remembered.text_logits, fresh.text_logits)
    with pytest.raises(ValueError, match="no attention window"):
        model.step_with_logits(codes[:, :, 0], segment)


def test_a_compiled_model_streams_rows_and_frames_of_any_number(make_model: MakeModel) -> None:
    """Each number is traced anew: loops over mini-batches are unrolled."""
    model = make_model(num_hidden_layers=1, ttt={"layers": [0]})
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for batch, frames in ((2, 3), (3, 2)):
        codes = random_codes(model.config, batch, 2 * frames)
        with torch.no_grad():
            state = model(codes[:, :, :frames], state=model.init_state(batch), text_only=True).state
            found, expected = (
                m(codes=codes[:, :, frames:], state=state.clone(), text_only=True) for m in (compiled, model)
            )
        assert torch.equal(found.text_logits, expected.text_logits)
        later, plain = found.state.named_tensors(), expected.state.named_tensors()
        assert all(torch.equal(tensor, plain[name]) for name, tensor in later.items())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 1


@torch.no_grad()
def test_the_users_last_frame_is_heard_late(make_model: MakeModel) -> None:
    """Codes of the user that come just before the step that reads them give the stream that knew them before."""
    model = make_model()
    codes = random_codes(model.config, 2, 12)
    state, expected = model.init_state(2), model.init_state(2)
    for frame in range(12):
        late = codes[:, :, frame].clone()
        late[:, 9:] = -1
        before = state.history.clone()
        heard = state.with_user_codes(codes[:, 9:, frame - 1], torch.tensor([True, True]))
        assert torch.equal(state.history, before)
        output, known = model.step_with_logits(late, heard), model.step_with_logits(codes[:, :, frame], expected)
        assert torch.equal(output.text_logits, known.text_logits)
        assert torch.equal(output.audio_logits.nan_to_num(), known.audio_logits.nan_to_num())
        state, expected = output.state, known.state
    one = state.with_user_codes(codes[:, 9:, 3], torch.tensor([False, True]))
    assert torch.equal(one.history[0], state.history[0]) and torch.equal(one.history[1, 9:, -1], codes[1, 9:, 3])
    fresh = model.init_state(2)
    assert torch.equal(fresh.with_user_codes(codes[:, 9:, 3], torch.tensor([True, True])).history, fresh.history)


def test_moshis_codes_stand_in_for_the_users_absent_ones(make_model: MakeModel) -> None:
    """In the rows asked for, where Moshi's are known; codes of a user who was heard stay."""
    model = make_model()
    state = model.init_state(2)
    state.history[:] = torch.arange(17)[:, None] + torch.arange(state.history.shape[2])
    state.history[:, 9:12] = -1
    state.history[:, 2, -1] = -2
    filled = state.with_own_codes_as_user(torch.tensor([True, False])).history
    expected = state.history.clone()
    expected[0, 9:12] = state.history[0, 1:4]
    expected[0, 10, -1] = -1
    assert torch.equal(filled, expected)
