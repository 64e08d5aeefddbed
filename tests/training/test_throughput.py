"""Frames, audio and FLOPs in a given time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training import throughput
from hf_moshi_ttt.training.throughput import Throughput, flops_per_frame, peak_flops

from ..conftest import random_codes

CPU = torch.device("cpu")


def test_speed_is_frames_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 14.0, 14.0])
    monkeypatch.setattr(throughput.time, "monotonic", lambda: next(now))
    speed = Throughput(2e9, CPU)
    speed.add(torch.tensor([30, 20]))
    speed.add(torch.tensor([50, 0]))
    speed.peak = 1e12
    assert speed.steps == 0
    for _ in range(2):
        speed.begin_step()
    report = speed.report(lambda frames: 2 * frames, CPU, processes=2, steps_left=30)
    expected = {"frames_per_second": 50.0, "audio_seconds_per_second": 4.0, "seconds_left": 60.0, "mfu": 0.05}
    assert report == pytest.approx(expected)
    assert (speed.frames, speed.steps) == (0, 0)


def test_known_gpus_have_a_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda")) == 989e12 and peak_flops(CPU) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Voodoo 2")
    assert peak_flops(torch.device("cuda")) is None
    assert "mfu" not in Throughput(1.0, CPU).report(lambda frames: frames, CPU, 1, 9)


def test_the_count_is_that_of_torch_without_attention_and_inner_steps(make_model: Callable[..., Any]) -> None:
    """A window of one frame leaves attention nothing to add; torch counts what runs."""
    model = make_model(ttt=None, sliding_window=1)
    codes = random_codes(model.config, 1, 64)
    with FlopCounterMode(display=False) as counted:
        model(codes=codes, labels=codes).loss.backward()
    assert counted.get_total_flops() / 64 == pytest.approx(flops_per_frame(model), rel=0.1)


def test_frozen_weights_cost_two_thirds_and_embeddings_nothing(
    make_model: Callable[..., MoshiTTTForConditionalGeneration],
) -> None:
    model = make_model()
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    weights = sum(parameter.numel() for parameter in model.parameters()) - tables
    assert flops_per_frame(model) == 6 * weights
    assert flops_per_frame(make_trainable(model, "frozen")) == 4 * weights
    adapted = make_trainable(make_model(), "lora+ttt")
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    ttt = sum(parameter.numel() for name, parameter in model.named_parameters() if ".ttt" in name)
    assert flops_per_frame(adapted) == 4 * (weights - ttt) + 6 * trained
