"""Quantized models stream and train as whole ones do, and their TTT layers are spared.

Those that need torchao are skipped where it is absent: with it installed every import of transformers' models takes
longer, so it is no requirement of the tests.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.checkpoints.quantization import sparing_memories
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY

from ..conftest import random_codes

TTT = {"layers": [0]}
needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def config_of_two_memories() -> MoshiTTTConfig:
    return MoshiTTTConfig.from_preset("tiny", num_hidden_layers=3, ttt={"layers": [0, 2]})


def test_ttt_layers_are_spared_beside_what_was_asked_for() -> None:
    memories = ["model.layers.0.ttt", "model.layers.2.ttt"]
    for key, given in (("modules_to_not_convert", None), ("llm_int8_skip_modules", ["lm_head"])):
        asked = SimpleNamespace(**{key: given})
        spared = sparing_memories(asked, config_of_two_memories())
        assert getattr(spared, key) == [*(given or []), *memories]
        assert getattr(asked, key) == given


def test_a_dictionary_is_read_as_transformers_reads_it() -> None:
    described = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    spared = sparing_memories(described, config_of_two_memories())
    assert isinstance(spared, BitsAndBytesConfig) and len(spared.llm_int8_skip_modules) == 2


def test_what_cannot_spare_modules_is_refused() -> None:
    with pytest.raises(ValueError, match="SimpleNamespace cannot spare modules.* such as TorchAoConfig"):
        sparing_memories(SimpleNamespace(), config_of_two_memories())


@pytest.fixture
def loaded(tmp_path: Path, make_model: Callable[..., Any]) -> tuple[Any, Any]:
    """A model, and itself with int8 weights."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    make_model(num_hidden_layers=2, ttt=TTT).save_pretrained(tmp_path)
    quantized = MoshiTTTForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    return MoshiTTTForConditionalGeneration.from_pretrained(tmp_path), quantized


def is_int8(parameter: torch.nn.Parameter) -> bool:
    return type(parameter.data) is not torch.Tensor


@needs_torchao
def test_int8_weights_change_losses_little_and_memories_not_at_all(loaded: tuple[Any, Any]) -> None:
    whole, quantized = loaded
    kept = {name for name, parameter in quantized.named_parameters() if not is_int8(parameter)}
    assert {name for name in dict(whole.named_parameters()) if ".ttt" in name} <= kept
    assert is_int8(quantized.model.layers[0].mlp.fc1.weight) and is_int8(quantized.lm_head.weight)
    codes = random_codes(whole.config, 2, 30)
    losses = [model(codes=codes, labels=codes).loss.item() for model in loaded]
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.02 * losses[0]


@needs_torchao
def test_a_quantized_model_streams_as_it_runs_whole(loaded: tuple[Any, Any]) -> None:
    _, quantized = loaded
    codes = random_codes(quantized.config, 2, 12, absent=0)
    whole, state = quantized(codes=codes), quantized.init_state(2)
    for t in range(12):
        step = quantized.step_with_logits(codes[:, :, t], state, GREEDY)
        torch.testing.assert_close(step.text_logits, whole.text_logits[:, t], rtol=1e-4, atol=1e-4)
        state = step.state
    made = quantized.generate(user_codes=codes[:1, 9:], max_new_frames=4)
    assert made.codes.shape[2] >= 4


@needs_torchao
def test_lora_and_memories_train_on_a_quantized_base(loaded: tuple[Any, Any]) -> None:
    model = make_trainable(loaded[1], "lora+ttt")
    base, codes = model.get_base_model(), random_codes(model.get_base_model().config, 2, 20)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, losses = torch.optim.AdamW(trained.values(), lr=1e-2), []
    for _ in range(4):
        loss = base(codes=codes, labels=codes).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert any(".ttt." in name for name in trained) and losses[-1] < 0.9 * losses[0]
