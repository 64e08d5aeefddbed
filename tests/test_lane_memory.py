"""Where lanes continue and where they start afresh."""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from hf_moshi_ttt.lane_memory import LaneMemory
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from .conftest import random_codes


def learned(lanes: LaneMemory, recording: list[int], start_frame: list[int]) -> list[bool]:
    state = lanes.state_for(torch.tensor(recording), torch.tensor(start_frame))
    return [bool(row.abs().max() > 0) for row in state.memory[0].delta_weights[0]]


@torch.no_grad()
def test_only_the_next_frame_of_the_same_recording_continues(
    make_model: Callable[..., MoshiTTTForConditionalGeneration],
) -> None:
    model = make_model()
    lanes = LaneMemory(partial(model.init_state, window=False), model.config)
    recording, start = torch.tensor([4, 5, 6]), torch.tensor([0, 8, 8])
    state = lanes.state_for(recording, start)
    codes = random_codes(model.config, 3, 8)
    lanes.keep(model(codes, state=state).state, {"codes": codes, "recording": recording, "start_frame": start})
    assert learned(lanes, [4, 5, 6], [8, 16, 16]) == [True, True, True]
    assert learned(lanes, [4, 5, 7], [8, 8, 16]) == [True, False, False]
    assert learned(lanes, [5, 4, 6], [8, 16, 0]) == [False, False, False]
    with pytest.raises(ValueError, match="2 segments for 3 lanes"):
        learned(lanes, [4, 5], [8, 16])
