"""Where lanes continue and where they start afresh."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.lane_memory import LaneMemory

from ..conftest import random_codes

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]


def batch_of(recording: list[int], start_frame: list[int], starts: list[int] | None = None) -> dict[str, torch.Tensor]:
    starts_recording = [frame == 0 for frame in start_frame] if starts is None else [bool(flag) for flag in starts]
    return {
        "recording": torch.tensor(recording),
        "start_frame": torch.tensor(start_frame),
        "starts_recording": torch.tensor(starts_recording),
    }


def learned(lanes: LaneMemory, *batch: list[int]) -> list[bool]:
    state = lanes.state_for(batch_of(*batch))
    return [bool(row.abs().max() > 0) for row in state.memory[0].fast_weights]


@torch.no_grad()
def walked(model: MoshiTTTForConditionalGeneration, **options: float) -> LaneMemory:
    """Lanes after eight frames of recordings 4, 5 and 6, which started at frames 0, 8 and 8."""
    lanes = LaneMemory(partial(model.init_state, window=False), model.config, **options)
    codes, batch = random_codes(model.config, 3, 8), batch_of([4, 5, 6], [0, 8, 8])
    lanes.keep(model(codes, state=lanes.state_for(batch)).state, {"codes": codes, **batch})
    return lanes


def test_only_the_next_frame_of_the_same_recording_continues(make_model: MakeModel) -> None:
    lanes = walked(make_model())
    assert learned(lanes, [4, 5, 6], [8, 16, 16]) == [True, True, True]
    assert learned(lanes, [4, 5, 7], [8, 8, 16]) == [True, False, False]
    assert learned(lanes, [5, 4, 6], [8, 16, 0]) == [False, False, False]
    assert learned(lanes, [4, 5, 6], [8, 16, 16], [0, 1, 0]) == [True, False, True]
    with pytest.raises(ValueError, match="2 segments for 3 lanes"):
        learned(lanes, [4, 5], [8, 16])


def test_lanes_are_reset_with_the_given_probability(make_model: MakeModel) -> None:
    model, where = make_model(), ([4, 5, 6], [8, 16, 16])
    assert learned(walked(model, reset_probability=1.0), *where) == [False] * 3
    draws = [learned(walked(model, reset_probability=0.3, seed=seed), *where) for seed in range(100)]
    assert 0.2 < 1 - sum(map(sum, draws)) / 300 < 0.4
    assert draws == [learned(walked(model, reset_probability=0.3, seed=seed), *where) for seed in range(100)]
    assert draws != [learned(walked(model, reset_probability=0.3, seed=seed, rank=1), *where) for seed in range(100)]


def test_saved_lanes_go_on(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    lanes = walked(model)
    lanes.save(tmp_path)
    loaded = LaneMemory(lanes.init_state, model.config)
    loaded.load(tmp_path)
    assert learned(loaded, [4, 5, 7], [8, 16, 16]) == [True, True, False] and loaded.lanes.batches == 1
    for name, tensor in lanes.lanes.state.named_tensors().items():
        assert torch.equal(loaded.lanes.state.named_tensors()[name], tensor)
    with pytest.raises(ValueError, match=r"holds no lanes-1.json. It was saved without carried memory or by fewer"):
        LaneMemory(lanes.init_state, model.config, rank=1).load(tmp_path)
