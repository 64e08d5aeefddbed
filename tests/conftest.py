"""Small seeded models and codes that the tests share."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import evaluate
import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import MimiConfig, MimiModel

from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecConfig
from hf_moshi_ttt.codec.log_mel_codec_fit import fit_log_mel_codec
from hf_moshi_ttt.codec.text_stream import train_text_tokenizer
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.codes import Provenance
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from .fixtures.checkpoints import lm_model, tiny_mimi, transformers_moshi  # noqa: F401  fixtures
from .fixtures.planted_conversations import quiet_codec_path  # noqa: F401  fixture

torch.set_num_threads(1)


@pytest.fixture
def make_model() -> Callable[..., MoshiTTTForConditionalGeneration]:
    """A seeded tiny model; with TTT, its branch is awake (no factor of it zero) unless `fresh`."""

    def make(fresh: bool = False, **overrides: Any) -> MoshiTTTForConditionalGeneration:
        torch.manual_seed(0)
        model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", **overrides)).eval()
        if not fresh:
            for layer in model.model.layers:
                if layer.has_ttt and layer.is_in_place:
                    torch.nn.init.normal_(layer.ttt.learner.convolutions[0], std=0.01)
                elif layer.has_ttt:
                    torch.nn.init.normal_(layer.ttt.o_proj.weight, std=0.03 / layer.ttt_gate.factor()[0].item())
                    if hasattr(layer.ttt.learner, "inner_norm_bias"):
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


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of datasets for the tests alone, also for the programs that they start."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("datasets_cache")
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield


@pytest.fixture(scope="session")
def evaluate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One folder for the modules of evaluate, offline: a process imports them from the first one that it is given."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("evaluate_modules")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", folder)
        patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
        yield str(folder)


def chirps_S(duration_sec: float, seed: int) -> np.ndarray:
    """A tone of another pitch and loudness every 80 ms, with some noise, at 24 kHz."""
    rng = np.random.default_rng(seed)
    samples = int(duration_sec * 24_000)
    pitch_hz = np.repeat(rng.uniform(100, 3000, samples // 1920 + 1), 1920)[:samples]
    gain = np.repeat(rng.uniform(0.01, 0.3, samples // 1920 + 1), 1920)[:samples]
    phase = 2 * np.pi * np.cumsum(pitch_hz) / 24_000
    return (gain * np.sin(phase) + 0.005 * rng.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="session")
def codec_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small fitted codec with Moshi's 8 codebooks of 32 ids."""
    config = LogMelCodecConfig(num_quantizers=8, codebook_size=32, pca_dim=8, griffin_lim_iterations=2)
    path = tmp_path_factory.mktemp("codec")
    fit_log_mel_codec([chirps_S(60.0, 0)], config, show_progress=False).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def mimi_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Mimi of Moshi's rates, tiny otherwise.

    A fresh one has codebooks of zeros, which would give one code, and a transformer that hardly changes anything.
    """
    torch.manual_seed(0)
    config = MimiConfig(
        hidden_size=16, num_filters=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8, upsample_groups=16,
        num_quantizers=8, codebook_size=32, sliding_window=20,
    )  # fmt: skip
    model = MimiModel(config)
    for name, table in model.named_buffers():
        if name.endswith("embed_sum"):
            table.normal_()
    for name, scale in model.named_parameters():
        if "layer_scale" in name:
            torch.nn.init.ones_(scale)
    path = tmp_path_factory.mktemp("mimi")
    model.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A SentencePiece model of the letters a to d: a word "a" is "▁", "a"."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("a b c d\n" * 5)
    train_text_tokenizer(folder / "text.txt", folder / "letters.model", vocab_size=256 + 9)
    return str(folder / "letters.model")


def copying(model: Any) -> Any:
    """Depth heads that answer with their own input codebook."""
    decoder = model.depth_decoder
    with torch.no_grad():
        for parameter in [*decoder.input_projections.parameters(), *decoder.layers.parameters()]:
            parameter.zero_()
        embedding = torch.randn(33, 16)
        for embed in decoder.embed_audio:
            embed.weight.copy_(embedding)
        for head in decoder.lm_heads:
            head.weight.copy_(50 * embedding[:32] / embedding[:32].square().sum(-1, keepdim=True).sqrt())
    return model
