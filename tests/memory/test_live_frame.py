"""Which live frames run in one kernel or in few calls, and the trial that comes before the kernel under `auto`."""

from typing import Any
from unittest import mock

import pytest
import torch

from hf_moshi_ttt.memory import live_frame, triton_frame
from hf_moshi_ttt.memory.delta_kernels import use_memory_kernel
from hf_moshi_ttt.memory.live_frame import is_one_kernel, is_short

from ..fixtures.kernel_trials import one_trial
from ..fixtures.online_cases import make_input, make_layer

with_triton = pytest.mark.skipif(triton_frame.triton is None, reason="triton is not installed")
LAYERS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"ttt_mlp_layers": 1}, False),
    ({"ttt_mlp_layers": 3}, False),
    ({"key_convolution_width": 1, "key_lag_frames": 0, "centering_horizon_frames": 0, "base_lr": 0.5}, False),
]


@pytest.mark.parametrize(("options", "expected"), LAYERS, ids=str)
def test_which_layers_have_a_frame_in_few_calls(options: dict[str, Any], expected: bool) -> None:
    learner = make_layer(**options).learner
    assert not is_short(learner, learner.init_state(1))  # with gradients
    with torch.no_grad():
        assert is_short(learner, learner.init_state(1)) == expected
        assert not is_short(learner, learner.init_state(2))
        assert not is_short(learner, learner.init_state(1, device="meta"))


@with_triton
@pytest.mark.parametrize(("options", "expected"), LAYERS, ids=str)
def test_which_layers_have_a_frame_in_one_kernel(options: dict[str, Any], expected: bool) -> None:
    learner = make_layer(torch.float32, **options).learner
    state = learner.init_state(1)
    with use_memory_kernel("triton"):
        assert not is_one_kernel(learner, state, torch.float32)  # with gradients
        with torch.no_grad():
            assert is_one_kernel(learner, state, torch.float32) == expected
    with torch.no_grad():
        assert not is_one_kernel(learner, state, torch.float32)  # auto, on a CPU


@with_triton
@pytest.mark.parametrize("is_broken", [False, True])
def test_auto_compares_it_once(monkeypatch: pytest.MonkeyPatch, is_broken: bool) -> None:
    true = live_frame.in_one_kernel

    def kernel(*given: Any) -> Any:
        z, after = true(*given)
        return 1.1 * z, after

    learner = make_layer(torch.float32).learner
    with (
        torch.no_grad(),
        one_trial(monkeypatch, live_frame, "a live frame", is_broken),
        mock.patch.object(live_frame, "in_one_kernel", kernel if is_broken else true),
        mock.patch.object(live_frame, "use_memory_kernel", lambda name: _only(monkeypatch, name)),
    ):
        assert is_one_kernel(learner, learner.init_state(1), torch.float32) != is_broken
        monkeypatch.setattr(live_frame, "chosen_kernel", lambda _: "triton")
        assert is_one_kernel(learner, learner.init_state(2), torch.float32) != is_broken


def _only(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    monkeypatch.setattr(live_frame, "chosen_kernel", lambda _: name)
    return use_memory_kernel(name)


@with_triton
def test_a_frame_with_diagnostics_runs_in_torch() -> None:
    layer, x = make_layer(torch.float32), make_input(1, dtype=torch.float32)
    with torch.no_grad(), use_memory_kernel("triton"), mock.patch.object(triton_frame, "launch_frame") as launched:
        assert layer(x, diagnostics=True).diagnostics is not None
    assert not launched.called
