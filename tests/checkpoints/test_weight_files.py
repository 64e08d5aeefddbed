"""A folder holds the weights of the last save, whatever their layout; two saves are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_moshi_ttt.checkpoints.adapters import make_trainable, save_adapter
from hf_moshi_ttt.checkpoints.weight_files import remove_stale_weights, require_one_layout
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

load = MoshiTTTForConditionalGeneration.from_pretrained
Save = Callable[[Any, Path], object]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny")).save_pretrained(folder)
    return folder


def frozen_but_ttt(model: Any) -> Any:
    return make_trainable(model, "ttt")


SAVES: dict[str, Save] = {
    "whole": lambda model, folder: model.save_pretrained(folder),
    "pieces": lambda model, folder: model.save_pretrained(folder, max_shard_size="100KB"),
    "part": lambda model, folder: frozen_but_ttt(model).save_pretrained(folder, trainable_only=True),
    "adapter": lambda model, folder: save_adapter(make_trainable(model, "lora+ttt"), folder),
    "kyutai": lambda model, folder: _without_ttt(model).to_kyutai(folder),
}
LAYOUTS = {"whole": "moshi_ttt", "pieces": "moshi_ttt", "part": "trained part", "adapter": "adapter",
           "kyutai": "kyutai"}  # fmt: skip


def _without_ttt(model: Any) -> Any:
    for layer in model.model.layers:
        if layer.has_ttt:
            layer.ttt.o_proj.weight.data.zero_()
    return model


def test_every_save_replaces_every_other(tmp_path: Path, base: Path) -> None:
    """One after the other into one folder: what is loaded is what was saved last."""
    first = ("whole", "adapter", "pieces", "whole", "part", "adapter")
    last = ("part", "pieces", "kyutai", "adapter", "kyutai", "pieces")
    folder = tmp_path / "out"
    for number, kind in enumerate(first + last):
        model = load(base)
        for parameter in model.model.layers[1].ttt.learner.parameters():
            parameter.data.fill_(number / 7)
        SAVES[kind](model, folder)
        loaded, info = load(folder, output_loading_info=True)
        assert info["layout"] == LAYOUTS[kind], (number, kind)
        if kind != "kyutai":
            named = loaded.named_parameters()
            own = [name for name, _ in named if "layers.1.ttt." in name and "learner" in name]
            weights = [loaded.get_parameter(name) for name in own if "original" not in name]
            assert weights and all(torch.equal(w, torch.full_like(w, number / 7)) for w in weights), (number, kind)


def test_two_saves_in_one_folder_are_refused(tmp_path: Path, base: Path) -> None:
    load(base).save_pretrained(tmp_path / "out")
    make_trainable(load(base), "lora").save_pretrained(tmp_path / "out")  # peft's own, past save_adapter
    match = r"out: holds whole weights \(model.safetensors\) and an adapter \(adapter_config.json\), and nothing says"
    with pytest.raises(ValueError, match=match):
        load(tmp_path / "out")
    remove_stale_weights(tmp_path / "out", ["model.safetensors"])
    assert load(tmp_path / "out", output_loading_info=True)[1]["layout"] == "moshi_ttt"
    (tmp_path / "out" / "trained_part.safetensors").touch()
    with pytest.raises(ValueError, match=r"and a trained part \(trained_part.safetensors\).*Remove those that are"):
        require_one_layout(tmp_path / "out")
    require_one_layout("user/name")


@pytest.mark.parametrize("kind", ["part", "adapter"])
def test_what_needs_a_base_is_not_saved_over_it(tmp_path: Path, base: Path, kind: str) -> None:
    load(base).save_pretrained(tmp_path / "own")
    with pytest.raises(ValueError, match="own: holds the base model, which what is saved there needs. Give another"):
        SAVES[kind](load(tmp_path / "own"), tmp_path / "own" / ".")
    load(tmp_path / "own")


def test_a_model_with_a_loaded_adapter_is_not_saved_as_a_whole(tmp_path: Path, base: Path) -> None:
    save_adapter(make_trainable(load(base), "lora"), tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"The model holds adapters: load its base and put them on it with peft"):
        load(tmp_path / "adapter").save_pretrained(tmp_path / "adapter")
    assert load(tmp_path / "adapter", output_loading_info=True)[1]["layout"] == "adapter"
