"""Small seeded models and codes that the tests share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

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
                    torch.nn.init.normal_(layer.ttt.inner_norm_bias, std=0.1)
        return model

    return make


def random_codes(config: MoshiTTTConfig, batch: int, frames: int, seed: int = 0, absent: float = 0.05) -> Tensor:
    """Codes `[B, K, T]`, some of them absent (-1)."""
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randint(config.codebook_size, (batch, config.num_streams, frames), generator=generator)
    audio[:, 0] = torch.randint(config.text_vocab_size, (batch, frames), generator=generator)
    missing = torch.rand(audio.shape, generator=generator) < absent
    return audio.masked_fill(missing, -1)
