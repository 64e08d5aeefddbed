"""Seeded TTT layers of every kind for the tests of the laws."""

import types
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.gated_delta import qwen3_next
from hf_moshi_ttt.ttt_layer import TTTLayer

WIDTH, HEADS, MINI_BATCH = 32, 2, 4  # heads narrower than 16 make the layer norm of a deep network ill-conditioned
STEPPING: list[dict[str, Any]] = [
    dict(ttt_mlp_layers=1),
    dict(ttt_mlp_layers=1, preset="paper"),
    dict(ttt_mlp_layers=2),
    dict(ttt_mlp_layers=2, preset="paper"),
    dict(ttt_mlp_layers=2, step="constant", output_bias=False, initial_keep_factor=0.8),
    dict(ttt_mlp_layers=2, update="last", base_lr=1.0),
    dict(ttt_mlp_layers=2, mini_batch_size=1, base_lr=1.0),
    dict(ttt_mlp_layers=3, forget="none"),
    dict(ttt_mlp_layers=5),
    dict(ttt_mlp_layers=5, preset="paper", forget="learned"),
    dict(ttt_mlp_layers=5, update="last", output_bias=False, base_lr=1.0),
    dict(ttt_mlp_layers=6, base_lr=1.0, ttt_mlp_expansion_factor=1),
]
OTHERS: list[dict[str, Any]] = [
    dict(learner="static", ttt_mlp_layers=1),
    dict(learner="static", ttt_mlp_layers=5),
    dict(learner="gated_delta", initial_keep_factor=0.8),
    dict(learner="gated_delta", forget="none"),
]
EVERY_LEARNER = [dict(ttt_mlp_layers=2), dict(ttt_mlp_layers=3, update="last"), OTHERS[0], OTHERS[2]]


def make_layer(dtype: torch.dtype = torch.float64, **options: Any) -> TTTLayer:
    """A layer whose every parameter does something."""
    torch.manual_seed(1)
    config = TTTConfig(**{"mini_batch_size": MINI_BATCH, "ttt_mlp_expansion_factor": 2, **options})
    layer = TTTLayer(WIDTH, HEADS, config).to(dtype)
    for name, parameter in layer.named_parameters():
        mild = "norm" in name or "bias" in name or name in ("o_proj.weight", "learner.place_offset")
        if mild and name != "learner.decay_bias":
            torch.nn.init.normal_(parameter, mean=float(name.endswith("norm_weight")), std=0.05)
    return layer


def make_input(frames: int, batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, frames, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def float64_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lifts transformers' cast of the gated delta rule to float32, so that the rule itself can be compared exactly."""
    lifted = types.SimpleNamespace(**{**vars(torch), "float32": torch.float64})
    monkeypatch.setattr(qwen3_next, "torch", lifted)
