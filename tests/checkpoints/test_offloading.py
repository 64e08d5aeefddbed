"""Offloaded models answer, stream and are saved like loaded ones; what cannot work is refused in words."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.evaluation.preflight import _memory
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY

from ..conftest import random_codes
from ..fixtures.ttt_cases import EVERY_LEARNER

load = MoshiTTTForConditionalGeneration.from_pretrained
MakeModel = Callable[..., MoshiTTTForConditionalGeneration]


def offloaded(folder: Path, how: str) -> Any:
    """The model in a folder, its weights on disk or in memory until a module is called."""
    if how == "accelerate":
        return cpu_offload(load(folder), execution_device="cpu")
    layers = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(4)}
    model = {"model.embed_text": "disk", "model.embed_audio": "cpu", "model.norm": "cpu", **layers}
    device_map = {**model, "lm_head": "cpu", "depth_decoder": "disk"}
    return load(folder, device_map=device_map, offload_folder=folder / "disk")


@pytest.mark.parametrize("how", ["device_map", "accelerate"])
@pytest.mark.parametrize("ttt", [*EVERY_LEARNER, {"learner": "in_place"}], ids=str)
def test_offloaded_ttt_layers_answer_and_stream_as_loaded_ones(
    tmp_path: Path, make_model: Any, ttt: dict, how: str
) -> None:
    whole, found = make_model(ttt=ttt), []
    whole.save_pretrained(tmp_path)
    codes = random_codes(whole.config, batch=2, frames=12)
    for model in (whole, offloaded(tmp_path, how)):
        with torch.no_grad():
            output = model(codes[:, :, :11], state=model.init_state(2), diagnostics=True)
        step = model.step_with_logits(codes[:, :, 11], output.state)
        new = model.generate(codes[:, :, :3], max_new_frames=2, sampling=GREEDY)
        found.append([output.text_logits, output.diagnostics[0].gate, step.text_logits, step.audio_logits, new.codes])
    assert next(model.model.layers[1].ttt.parameters()).is_meta and model.device == torch.device("cpu")
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.fixture
def saved(tmp_path: Path, make_model: MakeModel) -> Path:
    make_model().save_pretrained(tmp_path)
    return tmp_path


def test_a_model_on_disk_is_saved_whole(saved: Path, make_model: MakeModel) -> None:
    offloaded(saved, "device_map").save_pretrained(saved / "again")
    again = load(saved / "again").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in make_model().state_dict().items())


@pytest.mark.parametrize(
    ("use", "how", "what"),
    [
        (lambda model, folder: model.save_pretrained(folder / "again"), "accelerate", "save_pretrained"),
        (lambda model, folder: model.save_pretrained(folder / "part", trainable_only=True), "device_map", "save_"),
        (lambda model, folder: model.to_kyutai(folder / "kyutai"), "device_map", "an export to Kyutai's Moshi"),
        (lambda model, folder: model.to_transformers(folder / "theirs"), "device_map", "an export to transformers'"),
        (lambda model, folder: make_trainable(model, "ttt"), "device_map", r"training \(ttt\)"),
    ],
)
def test_what_needs_the_weights_themselves_is_refused(saved: Path, use: Callable, how: str, what: str) -> None:
    model = offloaded(saved, how)
    with pytest.raises(ValueError, match=what + r".* needs every weight in place, but \d+ are offloaded \(model\."):
        use(model, saved)


def test_a_folder_holds_the_weights_of_one_model(saved: Path) -> None:
    first = offloaded(saved, "device_map")
    with pytest.raises(ValueError, match=r"offload_folder='.*disk' holds the weights of .*, which is in use"):
        offloaded(saved, "device_map")
    del first
    gc.collect()
    offloaded(saved, "device_map")


def test_checks_before_an_evaluation_read_offloaded_gates(saved: Path, make_model: MakeModel) -> None:
    settings: Any = SimpleNamespace(memory="stream")
    assert _memory(offloaded(saved, "device_map"), settings) == _memory(make_model(), settings)
