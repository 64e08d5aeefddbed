"""transformers' own Moshi: the same logits from its files, and back into it bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MoshiForConditionalGeneration

from hf_moshi_ttt.checkpoints.lazy_weights import as_lazy
from hf_moshi_ttt.checkpoints.transformers_moshi import (
    config_from_transformers,
    config_to_transformers,
    from_transformers,
    to_transformers,
)
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import random_codes
from ..fixtures.checkpoints import TINY

TOLERANCE = dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def saved(transformers_moshi: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf-moshi")
    transformers_moshi.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_logits_equal_transformers(saved: Path, transformers_moshi: Any) -> None:
    model, info = MoshiTTTForConditionalGeneration.from_pretrained(saved, output_loading_info=True)
    assert (info["layout"], info["missing_keys"], info["new_keys"], model.config.ttt) == (
        "transformers",
        set(),
        [],
        None,
    )
    codes = random_codes(TINY, batch=2, frames=14, absent=0)  # within the window, which theirs ignores
    inputs = model._delayed(codes, None)
    hidden, *_ = model.model(inputs[:, :, :-1])
    theirs = transformers_moshi(
        input_ids=inputs[:, 0, :-1], moshi_audio_codes=inputs[:, 1:9, :-1], user_audio_codes=inputs[:, 9:, :-1]
    )
    torch.testing.assert_close(hidden, theirs.last_hidden_state, **TOLERANCE)
    torch.testing.assert_close(model.lm_head(hidden), theirs.logits, **TOLERANCE)
    frames = inputs[:, :8, 1:].transpose(1, 2).flatten(0, 1)
    depth = transformers_moshi.depth_decoder(input_ids=frames, last_hidden_state=hidden.flatten(0, 1)[:, None])
    ours = torch.stack(model.depth_decoder(hidden, inputs[:, :8, 1:]).logits, dim=2).flatten(0, 1)
    torch.testing.assert_close(ours, depth.logits, **TOLERANCE)


def test_round_trip_is_bit_equal_and_transformers_finds_every_weight(
    saved: Path,
    transformers_moshi: Any,
    tiny_mimi: Path,
    tmp_path: Path,
) -> None:
    model = MoshiTTTForConditionalGeneration.from_pretrained(saved, codec=str(tiny_mimi))
    model.to_transformers(tmp_path)
    back, info = MoshiForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    before = {name: weight for name, weight in transformers_moshi.state_dict().items() if "audio_encoder" not in name}
    after = back.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    codes = torch.randint(32, (1, 8, 3))
    spoken = back.generate(
        input_ids=torch.zeros(1, 3, dtype=torch.int64), moshi_audio_codes=codes, user_audio_codes=codes,
        max_new_tokens=2, return_audio_waveforms=False, concat_unconditional_inputs=False,
    )  # fmt: skip
    assert spoken.shape == (1, 5)


def test_published_configuration_is_the_7b() -> None:
    """The configuration of kmhf/hf-moshiko is transformers' default."""
    from transformers import MimiConfig, MoshiConfig

    raw = MoshiConfig.from_audio_encoder_config(MimiConfig()).to_dict()
    assert MoshiTTTConfig.from_dict(config_from_transformers(raw)).own_values() == MoshiTTTConfig(ttt=None).own_values()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu', but it must be 'silu'"),
        ({"num_key_value_heads": 1}, "num_key_value_heads=1, but it must be 2"),
        ({"head_dim": 8}, "head_dim=8, but it must be 16"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rope_parameters=.*'default'"),
    ],
)
def test_configurations_that_cannot_be_followed_are_refused(
    transformers_moshi: Any,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        config_from_transformers({**transformers_moshi.config.to_dict(), **changes})


def test_other_delays_and_other_weights_are_refused(transformers_moshi: Any) -> None:
    with pytest.raises(ValueError, match=r"delays=\[0, 0, 0.*, but transformers' Moshi has \[0, 0, 1"):
        config_to_transformers(MoshiTTTConfig.from_preset("tiny", delays=[0] * 17), transformers_moshi.config)
    with pytest.raises(ValueError, match="1 weights have no place in Moshi: decoder.model.layers.0.gate.weight"):
        from_transformers(as_lazy({"decoder.model.layers.0.gate.weight": torch.zeros(1)}), 2)
    model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny"))
    with pytest.raises(ValueError, match="19 weights have no place in Moshi: model.layers.1.ttt"):
        to_transformers(model.state_dict(), model.config)
