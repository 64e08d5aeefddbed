"""`torch.compile` takes a step, a forward pass and the training loss as one graph each, with the same numbers.

The backend runs the traced operations as they are, so this is about tracing; no code is generated.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from .conftest import random_codes


@pytest.fixture(scope="module", params=["ttt", "in_place"])
def model(request: pytest.FixtureRequest) -> Iterator[Any]:
    torch.manual_seed(0)
    config = MoshiTTTConfig.from_preset(
        "tiny", num_hidden_layers=1, num_codebooks=2, delays=[0, 0, 1, 0, 1], sliding_window=4,
        depth_decoder_config={"num_hidden_layers": 1},
        ttt={"layers": "all", "learner": request.param, "mini_batch_size": 4},
    )  # fmt: skip
    made = MoshiTTTForConditionalGeneration(config).eval()
    layer = made.model.layers[0].ttt
    torch.nn.init.normal_(
        layer.learner.convolutions[0] if request.param == "in_place" else layer.o_proj.weight, std=0.03
    )
    yield made
    torch.compiler.reset()


def compiled(function: Any) -> Any:
    """Raises an error where a graph would break."""
    return torch.compile(function, backend="eager", fullgraph=True)


@torch.no_grad()
def test_a_step_is_one_graph(model: Any) -> None:
    step, streams = compiled(model.step_with_logits), [model.init_state(2), model.init_state(2)]
    codes = random_codes(model.config, batch=2, frames=3, absent=0)
    codes[:, :3] = -2
    for frame in codes.unbind(2):
        own, found = model.step_with_logits(frame, streams[0]), step(frame, streams[1])
        streams = [own.state, found.state]
        assert torch.equal(own.codes, found.codes)
        torch.testing.assert_close(own.audio_logits, found.audio_logits, equal_nan=True)


def test_the_training_loss_is_one_graph_with_the_same_gradients(model: Any) -> None:
    codes, gradients = random_codes(model.config, batch=2, frames=6), []
    for function in (model, compiled(lambda **given: model(**given).loss)):
        loss = function(codes=codes, labels=codes, return_logits=False)
        loss = loss if isinstance(loss, torch.Tensor) else loss.loss
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    assert len(gradients[0]) == len(gradients[1]) > 20
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_the_training_loss_with_adapters_is_one_graph_with_the_same_gradients(model: Any) -> None:
    adapted = make_trainable(copy.deepcopy(model), "lora").get_base_model()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    codes, trained = random_codes(model.config, batch=2, frames=6), [p for p in adapted.parameters() if p.requires_grad]
    found = []
    for function in (adapted, compiled(lambda **given: adapted(**given).loss)):
        loss = function(codes=codes, labels=codes, return_logits=False)
        loss = loss if isinstance(loss, torch.Tensor) else loss.loss
        found.append(torch.autograd.grad(loss, trained))
    assert len(found[0]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def compile_attention(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.compile(backend="aot_eager")


def compile_layers(model: Any) -> None:
    for layer in [*model.model.layers, *model.depth_decoder.layers]:
        layer.compile(backend="aot_eager")


def replace_layers(model: Any) -> None:
    for layers in (model.model.layers, model.depth_decoder.layers):
        for index, layer in enumerate(layers):
            layers[index] = torch.compile(layer, backend="aot_eager")


@pytest.mark.parametrize("compile_parts", [compile_attention, compile_layers, replace_layers])
@torch.no_grad()
def test_layers_that_are_compiled_one_by_one(compile_parts: Callable[[Any], None]) -> None:
    """A stream of one row has a short way of its own, which graphs of single layers must not meet."""
    config = MoshiTTTConfig.from_preset("tiny", num_hidden_layers=2, ttt={"layers": [1]})
    model: Any = MoshiTTTForConditionalGeneration(config).eval()
    other = copy.deepcopy(model)
    compile_parts(other)
    streams, codes = [model.init_state(1), other.init_state(1)], random_codes(config, batch=1, frames=3, absent=0)
    for frame in codes.unbind(2):
        own, found = (each.step_with_logits(frame, state) for each, state in zip((model, other), streams, strict=True))
        streams = [own.state, found.state]
        torch.testing.assert_close(found.audio_logits, own.audio_logits, equal_nan=True, rtol=1e-4, atol=1e-5)
