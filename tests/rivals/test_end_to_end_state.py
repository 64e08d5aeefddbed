"""The state of a stream that learns end to end: fresh rows, borders of chunks by row, files."""

from pathlib import Path

import pytest
import torch

from hf_moshi_ttt.rivals.end_to_end import EndToEndMoshi
from hf_moshi_ttt.rivals.end_to_end_state import EndToEndState

from ..conftest import random_codes
from .test_configuration_end_to_end import make_config


def make_model(seed: int = 0, **changes: object) -> EndToEndMoshi:
    torch.manual_seed(seed)
    return EndToEndMoshi(make_config(**{"chunk_frames": 5, **changes})).eval()


@torch.no_grad()
def run_state(model: EndToEndMoshi, rows: int, frames: int) -> EndToEndState:
    codes = random_codes(model.config, rows, frames)
    state = model(codes, state=model.init_state(rows)).state
    assert state is not None
    return state


def test_reset_rows_are_fresh_and_the_others_bit_equal() -> None:
    model = make_model()
    state, fresh = run_state(model, 3, 13), model.init_state(3).named_tensors()
    before = state.named_tensors()
    for name, tensor in state.reset(torch.tensor([False, True, False])).named_tensors().items():
        assert torch.equal(tensor[1], fresh[name][1]), name
        assert torch.equal(tensor[[0, 2]], before[name][[0, 2]]), name
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in state.reset().named_tensors().items())
    assert all(before[f"deltas.{i}"].any() for i in range(2)) and state.position.tolist() == [3, 3, 3]


def test_only_rows_at_a_border_learn() -> None:
    state = run_state(make_model(), 2, 13)
    rows = torch.tensor([True, False])
    after = state.learned(rows, tuple(torch.ones_like(delta) for delta in state.deltas))
    for old, new in zip(state.deltas, after.deltas, strict=True):
        assert torch.equal(new[0], old[0] - 1) and torch.equal(new[1], old[1])
    assert (
        after.position.tolist() == [0, 3] and not after.codes[0].any() and torch.equal(after.codes[1], state.codes[1])
    )
    assert after.chunk_start.frames.tolist() == [13, 10] and after.stream.frames.tolist() == [13, 13]


def test_saved_and_restored_in_the_middle_of_a_chunk(tmp_path: Path) -> None:
    model = make_model()
    state, more = run_state(model, 2, 13), random_codes(model.config, 2, 9, seed=1)
    state.save(tmp_path / "state.safetensors", model.config)
    restored = model.init_state(2).load(tmp_path / "state.safetensors", model.config)
    with torch.no_grad():
        one, other = model(more, state=state), model(more, state=restored)
    assert torch.equal(one.text_logits, other.text_logits)
    assert all(torch.equal(a, b) for a, b in zip(one.state.deltas, other.state.deltas, strict=True))
    with pytest.raises(ValueError, match="saved with chunk_frames=5, but the model has chunk_frames=6"):
        make_model(chunk_frames=6).init_state(2).load(tmp_path / "state.safetensors", make_model(chunk_frames=6).config)
