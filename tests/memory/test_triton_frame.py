"""A live frame in one Triton kernel equals the frame in torch, whatever the layer consists of; interpreted on CPUs."""

from typing import Any
from unittest import mock

import pytest
import torch

from hf_moshi_ttt.memory import triton_frame
from hf_moshi_ttt.memory.delta_kernels import use_memory_kernel

from ..fixtures.online_cases import FRAMES, live_frames, make_input, make_layer, require_equal_frames

pytestmark = pytest.mark.skipif(triton_frame.triton is None, reason="triton is not installed")


@pytest.mark.parametrize("options", FRAMES, ids=str)
def test_frames_equal_those_in_torch(options: dict[str, Any]) -> None:
    """From a memory that has heard something, in two rows, the second of which starts later."""
    layer, x = make_layer(torch.float32, **options), make_input(9, dtype=torch.float32)
    with torch.no_grad():
        heard = layer(x[:, :5]).state
    fresh = layer.init_state(2).named_tensors()
    state = heard.map(lambda name, own: torch.stack([own[0], fresh[name][1]]))
    kept = {name: tensor.clone() for name, tensor in state.named_tensors().items()}
    with mock.patch.object(triton_frame, "launch_frame", wraps=triton_frame.launch_frame) as launched:
        own = live_frames(layer, x[:, 5:], state, "triton")
    assert launched.call_count == 4
    require_equal_frames(own, live_frames(layer, x[:, 5:], state, "torch"))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in state.named_tensors().items())


def test_projections_may_be_narrower_than_the_memory() -> None:
    layer, x = make_layer(torch.float32).bfloat16(), make_input(6).bfloat16()
    for parameter in layer.learner.parameters():
        parameter.data = parameter.data.float()
    frames, found = [layer.project(frame) for frame in x.split(1, dim=1)], []
    for kernel in ("triton", "torch"):
        answers, state = [], layer.init_state(2)
        with torch.no_grad(), use_memory_kernel(kernel):
            for frame in frames:
                z, state, _ = layer.learner(*frame, state, False)
                answers.append(z)
        found.append((answers, state))
    assert {x.dtype for frame in frames for x in frame} == {torch.bfloat16}
    require_equal_frames(*found)


def test_without_inner_steps_nothing_is_learned() -> None:
    layer, x = make_layer(torch.float32), make_input(2, dtype=torch.float32)
    own = live_frames(layer, x, layer.init_state(2), "triton", inner_lr_scale=0.0)
    require_equal_frames(own, live_frames(layer, x, layer.init_state(2), "torch", inner_lr_scale=0.0))
    assert not own[1].fast_weights.any() and not own[1].value_mean.any()
    with pytest.raises(ValueError, match="lr_scale=3 with base_lr="):
        live_frames(layer, x, layer.init_state(2), "triton", inner_lr_scale=3)


@pytest.mark.parametrize("options", [dict(ttt_mlp_layers=1), dict(ttt_mlp_layers=3)], ids=str)
def test_other_depths_run_the_delta_step_alone_as_a_kernel(options: dict[str, Any]) -> None:
    layer, x = make_layer(torch.float32, **options), make_input(2, dtype=torch.float32)
    with mock.patch.object(triton_frame, "launch_frame") as launched:
        require_equal_frames(live_frames(layer, x, None, "triton"), live_frames(layer, x, None, "torch"))
    assert not launched.called


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_widths_on_a_gpu() -> None:
    from hf_moshi_ttt import TTTConfig, TTTLayer

    torch.manual_seed(0)
    layer = TTTLayer(4096, 32, TTTConfig()).cuda()
    torch.nn.init.normal_(layer.o_proj.weight, std=0.02)
    x = torch.randn(2, 40, 4096, device="cuda")
    with torch.no_grad():
        state = layer(x[:, :32]).state
    require_equal_frames(live_frames(layer, x[:, 32:], state, "triton"), live_frames(layer, x[:, 32:], state, "torch"))
