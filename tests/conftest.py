"""Small seeded models and codes that the tests share."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.codes import Provenance
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from .checkpoint_fixture import lm_model, tiny_mimi, transformers_moshi  # noqa: F401  fixtures

torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., MoshiTTTForConditionalGeneration]:
    """A seeded tiny model; with TTT, its branch is awake (`o_proj` not zero) unless `fresh`."""

    def make(fresh: bool = False, **overrides: Any) -> MoshiTTTForConditionalGeneration:
        torch.manual_seed(0)
        model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", **overrides)).eval()
        if not fresh:
            for layer in model.model.layers:
                if layer.has_ttt:
                    torch.nn.init.normal_(layer.ttt.o_proj.weight, std=0.3)
                    if model.config.ttt.learner != "gated_delta":
                        torch.nn.init.normal_(layer.ttt.learner.inner_norm_bias, std=0.1)
        return model

    return make


def random_codes(config: MoshiTTTConfig, batch: int, frames: int, seed: int = 0, absent: float = 0.05) -> Tensor:
    """Codes `[B, K, T]`, some of them absent (-1)."""
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randint(config.codebook_size, (batch, config.num_streams, frames), generator=generator)
    audio[:, 0] = torch.randint(config.text_vocab_size, (batch, frames), generator=generator)
    missing = torch.rand(audio.shape, generator=generator) < absent
    return audio.masked_fill(missing, -1)


def save_codes(folder: Path, lengths: list[int], rows: int = 8, codebook_size: int = 32) -> Path:
    """An encoded corpus of random recordings `[rows, T]` of these lengths."""
    generator = torch.Generator().manual_seed(0)
    codes = [torch.randint(codebook_size, (rows, length), generator=generator).tolist() for length in lengths]
    recordings = [
        {"codes": c, "frames": len(c[0]), "path": f"{i}.flac", "duration_sec": len(c[0]) / 12.5}
        for i, c in enumerate(codes)
    ]
    Dataset.from_list(recordings).save_to_disk(str(folder))
    provenance = Provenance("tests/random", "random", codebook_size, [0] * 8, None, 0, {})
    (folder / "provenance.json").write_text(json.dumps(asdict(provenance)))
    return folder
