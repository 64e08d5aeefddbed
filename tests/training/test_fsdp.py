"""Real FSDP2 over gloo: parameters are DTensors (the fixture asserts it), and all laws of training hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from safetensors.torch import load_file
from torch import nn

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.fsdp import (
    require_every_parameter,
    require_what_was_asked,
    set_up_plugin,
    take_sharded_parameters,
)

from ..conftest import save_codes
from ..fixtures.training_runs import log_of, outcome, require_same_when_killed, tiny_settings, train

# With one head the second process holds no element of a learner.
ONE_HEAD: dict[str, Any] = {"num_attention_heads": 1, "ttt": {"persistent_states": True}}
LANES: dict[str, Any] = {"order": "lanes", "config": ONE_HEAD}


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "codes", [100, 61, 44, 37, 11])


@pytest.mark.parametrize("fsdp", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_a_killed_run_equals_one_never_stopped(tmp_path: Path, codes: Path, fsdp: str) -> None:
    mode = {**LANES, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}
    require_same_when_killed(tmp_path, codes, kills=1, processes=2, fsdp=fsdp, **mode)
    alone = tiny_settings(tmp_path / "alone", codes, **{**mode, "per_device_train_batch_size": 2})
    assert train(alone) == [0]
    assert outcome(tmp_path / "whole")[0] == pytest.approx(outcome(tmp_path / "alone")[0], abs=1e-5)
    MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "whole")


@pytest.mark.parametrize("fsdp", ["FULL_STATE_DICT", "SHARDED_STATE_DICT"])
def test_bfloat16_adapters_train_and_go_on(tmp_path: Path, codes: Path, fsdp: str) -> None:
    """LoRA and TTT over a frozen base, checkpointed and accumulated: all but the base moves; memories start and go on
    in float32."""
    torch.manual_seed(0)
    model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", ttt=None)).bfloat16()
    model.save_pretrained(tmp_path / "base")
    mode: dict[str, Any] = dict(
        preset=None, model_name_or_path=str(tmp_path / "base"), trainable="lora+ttt", lora_rank=2, bf16=True,
        order="lanes", config={"ttt": {"persistent_states": True, "mini_batch_size": 4}}, max_steps=4,
        carry_window=True, activation_checkpointing=True, gradient_accumulation_steps=2, per_device_train_batch_size=1,
    )  # fmt: skip
    settings = tiny_settings(tmp_path / "run", codes, **mode)
    assert train({**settings, "stop_at_step": 2}, processes=2, fsdp=fsdp) == [0, 0], log_of(tmp_path / "run")
    assert train(settings, processes=2, fsdp=fsdp) == [0, 0], log_of(tmp_path / "run")
    whole = tiny_settings(tmp_path / "whole", codes, **mode)
    assert train(whole, processes=2, fsdp=fsdp) == [0, 0], log_of(tmp_path / "whole")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert "returned a view" not in log_of(tmp_path / "whole")  # torch: gradients may be wrong
    seen = json.loads((tmp_path / "whole-learners.json").read_text())
    assert seen["dtypes"] == ["torch.float32"]
    assert seen["memory"]["changed"] == 0 and seen["memory"]["too fine for bfloat16"] > 10, seen["memory"]
    trained = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "run")
    moved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert all(weight.isfinite().all() for weight in moved.values())
    assert trained.peft_config["default"].base_model_name_or_path == str(tmp_path / "base")


def test_sharding_that_would_not_happen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="FSDP was asked for, but accelerate shards on GPUs only"):
        require_what_was_asked(is_asked=True, is_enabled=False)
    require_what_was_asked(is_asked=False, is_enabled=False)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was asked for, but accelerate shards on GPUs only"):
        require_what_was_asked(is_asked=False, is_enabled=False)
    require_what_was_asked(is_asked=False, is_enabled=True)


def test_the_plugin_is_checked_and_keeps_losses_and_gradients_in_float32() -> None:
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    plugin.set_mixed_precision("bf16")
    set_up_plugin(plugin, "bf16")
    policy = plugin.mixed_precision_policy
    assert (policy.param_dtype, policy.reduce_dtype, policy.output_dtype) == (torch.bfloat16, torch.float32, None)
    assert not policy.cast_forward_inputs  # carried memory is among them
    plugin.cpu_ram_efficient_loading = True
    with pytest.raises(ValueError, match="fsdp_cpu_ram_efficient_loading=true, but memories are sharded before"):
        set_up_plugin(plugin, "no")
    plugin.fsdp_version = 1
    with pytest.raises(ValueError, match="fsdp_version=1, but the memory's precision needs FSDP2"):
        set_up_plugin(plugin, "no")


def test_the_optimizer_takes_the_parameters_of_the_sharded_model() -> None:
    model, sharded = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"name": "base", "params": [model.bias, model.bias]}])
    take_sharded_parameters(optimizer, [{"name": "base", "params": [sharded.weight, sharded.bias]}])
    require_every_parameter(optimizer, sharded)
    with pytest.raises(AssertionError, match="other parameters in group base"):
        take_sharded_parameters(optimizer, [{"name": "base", "params": [sharded.weight]}])


def test_an_optimizer_that_misses_a_parameter_is_found() -> None:
    model = nn.Linear(2, 2)
    require_every_parameter(torch.optim.SGD(model.parameters()), model)
    with pytest.raises(AssertionError, match="accelerate has lost parameters"):
        require_every_parameter(torch.optim.SGD([model.weight]), model)
