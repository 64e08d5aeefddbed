"""Our model equals Kyutai's `LMModel` with the same weights; checkpoints go there and back in both layouts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from moshi.models.lm import LMModel
from torch import Tensor

from hf_moshi_ttt.checkpoints.kyutai import (
    build_lm_model,
    config_from_kyutai,
    config_to_kyutai,
    from_kyutai,
    merge_lora,
    to_kyutai,
)
from hf_moshi_ttt.checkpoints.lazy_weights import as_lazy
from hf_moshi_ttt.checkpoints.repository import is_ttt_weight
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.memory.layer import TTTLayer
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import random_codes

TOLERANCE = dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def oracle() -> tuple[Any, MoshiTTTConfig]:
    config = MoshiTTTConfig.from_preset("tiny", ttt=None)
    torch.manual_seed(3)
    return build_lm_model(config).eval(), config


def ours_from(weights: dict[str, Tensor], config: MoshiTTTConfig) -> dict[str, Tensor]:
    return {name: lazy[...] for name, lazy in from_kyutai(as_lazy(weights), config.num_codebooks).items()}


def load_ours(lm_model: Any, config: MoshiTTTConfig) -> MoshiTTTForConditionalGeneration:
    model = MoshiTTTForConditionalGeneration(config).eval()
    model.load_state_dict(ours_from(lm_model.state_dict(), config))
    return model


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 16, 17, 300])
def test_forward_equals_kyutai(oracle: tuple[Any, MoshiTTTConfig], frames: int) -> None:
    lm_model, config = oracle
    codes = random_codes(config, batch=2, frames=frames)
    ours, theirs = load_ours(lm_model, config)(codes), lm_model(codes)
    torch.testing.assert_close(ours.text_logits, theirs.text_logits[:, 0], **TOLERANCE)
    torch.testing.assert_close(ours.audio_logits, theirs.logits, equal_nan=True, **TOLERANCE)
    assert ours.audio_logits[:, 1:, -1].isnan().all() and not ours.audio_logits[:, :, :-1].isnan().any()


@torch.no_grad()
def test_streaming_equals_kyutai_past_the_window(oracle: tuple[Any, MoshiTTTConfig]) -> None:
    """Step by step over three times the window of 16 frames, against Kyutai's streaming transformer."""
    lm_model, config = oracle
    model = load_ours(lm_model, config)
    codes = random_codes(config, batch=2, frames=50, absent=0)
    delayed = _kyutai_delayed(lm_model, codes)
    state = model.init_state(2)
    with lm_model.streaming(2):
        for frame in range(50):
            hidden, text_logits = lm_model.forward_text(delayed[:, :, frame : frame + 1])
            step = model.step_with_logits(codes[:, :, frame], state)
            state = step.state
            torch.testing.assert_close(step.text_logits, text_logits[:, 0, 0], **TOLERANCE)
            with lm_model.depformer.streaming(2):
                for codebook in range(config.num_codebooks):
                    token = delayed[:, codebook : codebook + 1, frame + 1 : frame + 2]
                    logits = lm_model.forward_depformer(codebook, token, hidden)[:, 0, 0]
                    if step.frames[0, 1 + codebook] >= 0:
                        torch.testing.assert_close(step.audio_logits[:, codebook], logits, **TOLERANCE)


def _kyutai_delayed(lm_model: Any, codes: Tensor) -> Tensor:
    from moshi.models.lm_utils import _delay_sequence

    initial = lm_model._get_initial_token().expand(codes.shape[0], -1, -1)
    return torch.cat([initial, _delay_sequence(lm_model.delays, codes, initial)], dim=2)


@pytest.mark.parametrize(("layout", "keys"), [("new", 135), ("old", 107)])
def test_checkpoint_round_trip(oracle: tuple[Any, MoshiTTTConfig], layout: Any, keys: int) -> None:
    lm_model, config = oracle
    ours = ours_from(lm_model.state_dict(), config)
    exported = to_kyutai(ours, layout)
    assert len(exported) == keys
    back = ours_from(exported, config)
    assert ours.keys() == back.keys() and all(torch.equal(ours[key], back[key]) for key in ours)
    torch.manual_seed(4)
    other = build_lm_model(config)
    other.load_state_dict(exported)  # Kyutai's own hooks read the old layout
    assert all(torch.equal(a, b) for a, b in zip(lm_model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("ttt", [None, {}, {"layers": "all", "ttt_mlp_layers": 5}], ids=str)
def test_full_size_has_kyutais_names_shapes_and_parameters(ttt: dict | None) -> None:
    """7,687,729,152 parameters of Kyutai, every name and shape, and beside them those of the declared TTT blocks."""
    config = MoshiTTTConfig.from_preset("moshi-7b", ttt=ttt)
    with torch.device("meta"):
        weights = MoshiTTTForConditionalGeneration(config).state_dict()
        theirs = build_lm_model(config, device="meta").state_dict()
        block = TTTLayer(4096, 32, config.ttt).state_dict() if config.ttt else {}
    plain = {name: weight for name, weight in weights.items() if not is_ttt_weight(name)}
    assert sum(weight.numel() for weight in plain.values()) == 7_687_729_152
    exported = to_kyutai(plain)
    assert {key: value.shape for key, value in exported.items()} == {key: value.shape for key, value in theirs.items()}
    assert (len(exported), len(to_kyutai(plain, "old"))) == (439, 355)
    declared = {
        f"model.layers.{index}.{name}": shape
        for index in config.ttt_layer_indices
        for name, shape in [
            *((f"ttt.{key}", value.shape) for key, value in block.items()),
            ("ttt_norm.weight", (4096,)),
            ("ttt_gate.weight", (4096,)),
        ]
    }
    assert {name: weights[name].shape for name in weights.keys() - plain.keys()} == declared


def test_published_shape_is_kyutais_own() -> None:
    from moshi.models.loaders import _lm_kwargs

    ours = config_to_kyutai(MoshiTTTConfig.from_preset("moshi-7b", ttt=None))
    assert {key: ours[key] for key in _lm_kwargs if key in ours and key != "depformer_dim_feedforward"} == {
        key: value for key, value in _lm_kwargs.items() if key in ours and key != "depformer_dim_feedforward"
    }
    published = MoshiTTTConfig.from_dict(config_from_kyutai(_lm_kwargs))
    assert published.own_values() == MoshiTTTConfig.from_preset("moshi-7b", ttt=None).own_values()


@pytest.mark.parametrize(
    "changes", [{}, {"hidden_size": 48, "ffn_dim": 252}, {"delays": [0] * 17, "sliding_window": 9}]
)
def test_configuration_round_trip(changes: dict[str, Any]) -> None:
    config = MoshiTTTConfig.from_preset("tiny", ttt=None, **changes)
    back = MoshiTTTConfig.from_dict(config_from_kyutai(config_to_kyutai(config)))
    assert back.own_values() == config.own_values()


@pytest.mark.parametrize("scale", [4, 4.125, 3.3])
def test_feed_forward_width_is_kyutais(scale: float) -> None:
    raw = {**config_to_kyutai(MoshiTTTConfig.from_preset("tiny", ttt=None)), "hidden_scale": scale}
    raw["depformer_dim_feedforward"] = None
    theirs = LMModel(**raw, device="meta")
    ours = config_from_kyutai(raw)
    assert theirs.transformer.layers[0].gating.linear_in.weight.shape[0] == ours["ffn_dim"]
    depth = theirs.depformer.layers[0].gating[0].linear_in.weight.shape[0]
    assert depth == ours["depth_decoder_config"]["ffn_dim"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "layer_norm"}, "norm='layer_norm', but it must be 'rms_norm_f32': our model is Moshi as Kyutai"),
        ({"gating": None}, "gating=None, but it must be 'silu'"),
        ({"dep_q": 4}, "n_q=16, but it must be twice dep_q=4"),
        ({"context": None}, "context=None, but it must be given"),
        ({"model_type": "hibiki"}, "model_type='hibiki', but it must be 'moshi'"),
        ({"conditioners": {"speaker": {}}}, "conditioners={'speaker': {}}, but it must be empty"),
        ({"fuser": {"sum": ["speaker"]}}, "conditioners=None, but it must be empty: conditions are not supported"),
        ({"text_card_out": 5}, "text_card_out=5, but it must be text_card or absent"),
        ({"depformer_low_rank_embeddings": 128}, "depformer_low_rank_embeddings=128, but it must be None"),
        ({"depformer_dim_feedforward": [48, 96]}, "depformer_dim_feedforward=.* but it must be the same in every step"),
        ({"n_speakers": 2}, "keys that are not understood: n_speakers"),
    ],
)
def test_configurations_of_other_models_are_refused(changes: dict[str, Any], message: str) -> None:
    raw = config_to_kyutai(MoshiTTTConfig.from_preset("tiny", ttt=None))
    with pytest.raises(ValueError, match=message):
        config_from_kyutai({**raw, **changes})


def test_kyutais_norm_has_no_other_epsilon() -> None:
    with pytest.raises(ValueError, match="rms_norm_eps=1e-05, but Kyutai's norm has 1e-08"):
        config_to_kyutai(MoshiTTTConfig.from_preset("tiny", rms_norm_eps=1e-5))


def test_unknown_weights_are_refused(make_model: Callable[..., MoshiTTTForConditionalGeneration]) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="1 weights have no place in Moshi: transformer.layers.0.norm3.alpha"):
        from_kyutai(as_lazy({"transformer.layers.0.norm3.alpha": torch.zeros(1)}), 8)
    with pytest.raises(ValueError, match=r"1 weights have no place in Moshi: .*self_attn.in_projs.1"):
        from_kyutai(as_lazy({"transformer.layers.0.self_attn.in_projs.1.weight": torch.zeros(1)}), 8)
    with pytest.raises(ValueError, match=r"\d+ weights have no place in Moshi: model.layers.1.ttt"):
        to_kyutai(model.state_dict())


BASE = "transformer.layers.0.gating.linear_in"


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({f"{BASE}.lora_A.weight": (2, 32)}, "linear_in.lora_A.weight' of the LoRA weights is without its lora_B"),
        ({f"{BASE}.lora_B.weight": (128, 2)}, "linear_in.lora_B.weight' of the LoRA weights is without its lora_A"),
        ({"linear.lora_A.weight": (2, 32)}, "'linear.lora_A.weight' of the LoRA weights belongs to no weight of its"),
        (
            {f"{BASE}.lora_A.weight": (2, 16), f"{BASE}.lora_B.weight": (128, 2)},
            r"lora_B \[128, 2\] and lora_A \[2, 16\] do not fit a weight of shape \[128, 32\]",
        ),
    ],
)
def test_bad_lora_weights_are_refused(
    oracle: tuple[Any, MoshiTTTConfig], lora: dict[str, tuple[int, ...]], message: str
) -> None:
    weights = as_lazy({name: torch.zeros(shape) for name, shape in lora.items()})
    with pytest.raises(ValueError, match=message):
        merge_lora(as_lazy(oracle[0].state_dict()), weights, 2.0, 8)
