"""Every layout is recognised by its files, and what is no checkpoint is refused with its reason."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import MimiConfig

from hf_moshi_ttt.checkpoints.kyutai import config_to_kyutai, to_kyutai
from hf_moshi_ttt.checkpoints.repository import Repository, open_checkpoint, read_config
from hf_moshi_ttt.checkpoints.transformers_moshi import config_to_transformers
from hf_moshi_ttt.commands.doctor import KYUTAI_TOKENIZER
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..fixtures.checkpoints import TINY, lora_weights, save_kyutai


def opened(folder: Path, base: str | None = None) -> Any:
    return open_checkpoint(Repository(str(folder)), base)


def test_the_first_7b_is_recognised_without_a_configuration(tmp_path: Path) -> None:
    """A repository of weights alone, here with a hole for content: 355 keys of the old layout and Kyutai's shapes."""
    config = MoshiTTTConfig(ttt=None)
    with torch.device("meta"):
        weights = MoshiTTTForConditionalGeneration(config).state_dict()
    header, end = {}, 0
    for name, weight in to_kyutai(weights, "old").items():
        size = 2 * weight.numel()
        header[name] = {"dtype": "BF16", "shape": list(weight.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    checkpoint = opened(tmp_path)
    assert (len(header), end) == (355, 2 * 7_687_729_152)
    values = {**config.own_values(), "text_tokenizer": KYUTAI_TOKENIZER}
    assert (checkpoint.layout, checkpoint.config.own_values()) == ("kyutai", values)
    assert {name: lazy.shape for name, lazy in checkpoint.weights.items()} == {
        name: tuple(weight.shape) for name, weight in weights.items()
    }


@pytest.mark.parametrize(
    ("files", "config"),
    [
        ({"name": "model.safetensors"}, {}),
        ({"name": "moshi.safetensors"}, {"moshi_name": "moshi.safetensors"}),
        ({"name": "consolidated.safetensors"}, {"lora": True}),  # moshi-finetune: whole weights, adapters merged
        ({"shards": 3}, {}),
        ({"shards": 2, "name": "consolidated.safetensors"}, {}),
        ({"layout": "old", "shards": 2}, {}),
    ],
    ids=str,
)
def test_kyutais_files_are_found(tmp_path: Path, lm_model: Any, files: dict[str, Any], config: dict[str, Any]) -> None:
    checkpoint = opened(save_kyutai(tmp_path, lm_model, **files, **config))
    assert (checkpoint.layout, checkpoint.origin) == ("kyutai", (str(tmp_path), None))
    assert torch.equal(checkpoint.weights["model.embed_text.weight"][...], lm_model.text_emb.weight)


def test_the_tokenizer_of_a_repository_is_named(tmp_path: Path, lm_model: Any) -> None:
    save_kyutai(tmp_path, lm_model, tokenizer_name="text.model")
    assert opened(tmp_path).config.text_tokenizer is None
    (tmp_path / "text.model").write_bytes(b"")
    assert opened(tmp_path).config.text_tokenizer == str(tmp_path / "text.model")
    save_kyutai(tmp_path, lm_model, tokenizer_name="hf://kyutai/x/text.model")
    assert opened(tmp_path).config.text_tokenizer == "hf://kyutai/x/text.model"


@pytest.mark.parametrize("layout", ["kyutai", "transformers"])
def test_a_moshi_without_its_tokenizers_file_has_learned_kyutais_text(tmp_path: Path, layout: str) -> None:
    """Otherwise it would be taken for a model of audio alone, and never speak."""
    for vocab_size, name in ((32_000, KYUTAI_TOKENIZER), (64, None)):
        config = MoshiTTTConfig(ttt=None, text_vocab_size=vocab_size)
        if layout == "kyutai":
            (tmp_path / "config.json").write_text(json.dumps(config_to_kyutai(config)))
            (tmp_path / "model.safetensors").write_bytes(b"")
        else:
            config_to_transformers(config, MimiConfig()).save_pretrained(tmp_path)
        assert read_config(Repository(str(tmp_path))).text_tokenizer == name
    (tmp_path / "tokenizer_spm_32k_3.model").write_bytes(b"")
    assert read_config(Repository(str(tmp_path))).text_tokenizer == str(tmp_path / "tokenizer_spm_32k_3.model")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match="no weights. Looked for model.safetensors, consolidated.safetensors, .*nothing"
    ):
        opened(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pytorch_model.bin: pickled weights are not loaded; convert them"):
        opened(tmp_path)
    save_file({"wte.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the weights are not Kyutai's Moshi .the first is 'wte.weight'"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="config.json is none of Moshi's .model_type='llama'"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not valid JSON"):
        opened(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="config.json: expected a JSON object, got list"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/model.safetensors", "a/../../model.safetensors"])
def test_files_outside_the_repository_are_not_read(tmp_path: Path, lm_model: Any, name: str) -> None:
    save_kyutai(tmp_path / "inside", lm_model, moshi_name=name)
    with pytest.raises(ValueError, match="model.safetensors leads out of the repository"):
        opened(tmp_path / "inside")


def test_bad_indexes_are_refused(tmp_path: Path, lm_model: Any) -> None:
    save_kyutai(tmp_path, lm_model, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["extra.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="names extra.weight, but model-00001-of-00002.safetensors lacks it"):
        opened(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match="names model-00002-of-00002.safetensors, but there is no such file"):
        opened(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match="model.safetensors.index.json has no weight_map"):
        opened(tmp_path)


def test_lora_needs_its_base_and_its_configuration(tmp_path: Path, lm_model: Any) -> None:
    base = save_kyutai(tmp_path / "base", lm_model)
    folder = tmp_path / "consolidated"
    save_kyutai(folder, lm_model, lora=True, lora_rank=4, lora_scaling=2.0)
    save_file(lora_weights(), folder / "lora.safetensors")
    whole = opened(folder)
    assert (whole.layout, whole.origin) == ("kyutai lora", (str(folder), None))
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match="LoRA weights of moshi-finetune, but their base cannot be opened there: .*no weights"
    ):
        opened(folder)
    assert opened(folder, str(base)).origin is None
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "lora": False}))
    with pytest.raises(ValueError, match="there are LoRA weights, but config.json has lora=False"):
        opened(folder, str(base))
    with pytest.raises(ValueError, match="holds whole weights: it needs no base"):
        opened(base, str(folder))


def test_a_trained_part_needs_its_base(tmp_path: Path) -> None:
    part, other = tmp_path / "part", tmp_path / "other"
    for folder, base in ((part, str(other)), (other, str(part))):
        TINY.save_pretrained(folder)
        save_file(
            {"lm_head.weight": torch.zeros(64, 32)}, folder / "trained_part.safetensors",
            metadata={"base_model_name_or_path": base},
        )  # fmt: skip
    with pytest.raises(ValueError, match="is built on this trained part itself"):
        opened(part)
    save_file({"lm_head.weight": torch.zeros(64, 32)}, part / "trained_part.safetensors")
    with pytest.raises(ValueError, match="the trained part names no base model. Give base_model_name_or_path"):
        opened(part)
    with pytest.raises(
        ValueError, match="holds only the trained part of a model, and its base '/no/base' cannot be op"
    ):
        opened(part, "/no/base")
