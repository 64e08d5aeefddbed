"""A live frame in few calls equals the learner's general form, whatever the layer consists of, to the last digits."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import live_frame, short_frame

from ..fixtures.online_cases import FRAMES, live_frames, make_input, make_layer, require_equal_frames


def both_ways(layer: Any, x: Tensor, state: Any, **options: Any) -> tuple[Any, Any]:
    """The frames of x in few calls, which all of them take, and in the general form."""
    with mock.patch.object(short_frame, "short_frame", wraps=short_frame.short_frame) as short:
        own = live_frames(layer, x, state, "torch", **options)
    assert short.call_count == x.shape[1]
    with mock.patch.object(live_frame, "is_short", lambda *_: False):
        return own, live_frames(layer, x, state, "torch", **options)


@pytest.mark.parametrize("heard", [0, 5])
@pytest.mark.parametrize("options", FRAMES, ids=str)
def test_frames_equal_the_general_form(options: dict[str, Any], heard: int) -> None:
    layer, x = make_layer(**options), make_input(heard + 12, batch=1)
    with torch.no_grad():
        state = layer(x[:, :heard]).state if heard else layer.init_state(1)
    kept = state.clone().named_tensors()
    own, true = both_ways(layer, x[:, heard:], state)
    require_equal_frames(own, true, rtol=1e-11, atol=1e-12)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.named_tensors().items())


def test_frames_of_silence_and_of_a_memory_that_is_asked_nothing() -> None:
    layer, x = make_layer(), make_input(6, batch=1)
    x[:, 2:4] = 0
    require_equal_frames(*both_ways(layer, x, layer.init_state(1)), rtol=1e-11, atol=1e-12)


def test_without_inner_steps_nothing_is_learned() -> None:
    layer, x = make_layer(), make_input(3, batch=1)
    own, true = both_ways(layer, x, layer.init_state(1), inner_lr_scale=0.0)
    require_equal_frames(own, true, rtol=1e-11, atol=1e-12)
    assert not own[1].fast_weights.any() and not own[1].value_mean.any()
    with pytest.raises(ValueError, match="lr_scale=3 with base_lr="):
        live_frames(layer, x, layer.init_state(1), "torch", inner_lr_scale=3)
