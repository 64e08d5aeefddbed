"""Checkpoints of Kyutai's and transformers' models on disk, from seeded tiny models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from moshi.modules.lora import replace_all_linear_with_lora
from safetensors.torch import save_file
from torch import Tensor
from transformers import MimiConfig, MimiModel, MoshiForConditionalGeneration

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.kyutai import build_lm_model, config_to_kyutai, from_kyutai, to_kyutai
from hf_moshi_ttt.lazy_weights import as_lazy
from hf_moshi_ttt.transformers_moshi import config_to_transformers

TINY = MoshiTTTConfig.from_preset("tiny", ttt=None)


@pytest.fixture(scope="session")
def lm_model() -> Any:
    """Kyutai's own model, seeded; not to be changed."""
    torch.manual_seed(3)
    return build_lm_model(TINY).eval()


def in_layout(weights: dict[str, Tensor], layout: Any) -> dict[str, Tensor]:
    """Weights of Kyutai's model with the keys of a layout."""
    if layout == "new":
        return dict(weights)
    return to_kyutai(
        {name: lazy[...] for name, lazy in from_kyutai(as_lazy(weights), TINY.num_codebooks).items()}, layout
    )


def save_kyutai(
    folder: Path, lm_model: Any, layout: str = "new", shards: int = 1, name: str = "model.safetensors", **config: Any
) -> Path:
    """A repository as Kyutai publishes them; `config` are further keys of its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().contiguous() for key, value in in_layout(lm_model.state_dict(), layout).items()}
    if shards == 1:
        save_file(weights, folder / name)
    else:
        save_shards(folder, weights, shards, name)
    (folder / "config.json").write_text(json.dumps({**config_to_kyutai(TINY), **config}))
    return folder


def save_shards(folder: Path, weights: dict[str, Tensor], shards: int, name: str = "model.safetensors") -> None:
    """Weights in several files with an index."""
    stem, weight_map = name.removesuffix(".safetensors"), {}
    for index in range(shards):
        filename = f"{stem}-{index + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(weights.items())[index::shards])
        save_file(part, folder / filename)
        weight_map.update(dict.fromkeys(part, filename))
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def lora_weights(rank: int = 4, embeddings: bool = False, seed: int = 5) -> dict[str, Tensor]:
    """Random LoRA weights by the names under which moshi-finetune saves them."""
    lora_model = build_lm_model(TINY)
    replace_all_linear_with_lora(lora_model, rank, 1.0)
    torch.manual_seed(seed)
    names = [name for name in lora_model.state_dict() if "lora_" in name or (embeddings and "emb" in name)]
    return {name: 0.1 * torch.randn_like(lora_model.state_dict()[name]) for name in names}


@pytest.fixture(scope="session")
def tiny_mimi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mimi of Moshi's rates with random weights, saved."""
    torch.manual_seed(4)
    config = MimiConfig(
        hidden_size=16, num_filters=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        intermediate_size=16, codebook_dim=8, codebook_size=32, vector_quantization_hidden_dimension=8,
        upsample_groups=16, num_quantizers=8,
    )  # fmt: skip
    model = MimiModel(config)
    for name, buffer in model.named_buffers():
        if name.endswith("codebook.embed_sum"):  # zeros at first, and every code would be 0
            torch.nn.init.normal_(buffer, std=0.1)
    folder = tmp_path_factory.mktemp("mimi")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def transformers_moshi(tiny_mimi: Path) -> MoshiForConditionalGeneration:
    """transformers' own Moshi, seeded; not to be changed."""
    torch.manual_seed(6)
    config = config_to_transformers(TINY, MimiConfig.from_pretrained(tiny_mimi))
    model = MoshiForConditionalGeneration(config).eval()
    for parameter in model.depth_decoder.parameters():
        if parameter.dim() == 3:  # theirs start at N(0, 1), and float32 cannot be compared at logits of thousands
            parameter.data /= parameter.shape[2] ** 0.5
    return model
