"""Law 6: our model equals Kyutai's `LMModel` with the same weights; checkpoints go there and back in both layouts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.kyutai import build_lm_model, from_kyutai_state_dict, lm_kwargs, to_kyutai_state_dict
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from .conftest import random_codes

TOLERANCE = dict(rtol=2e-5, atol=2e-5)


@pytest.fixture(scope="module")
def oracle() -> tuple[Any, MoshiTTTConfig]:
    config = MoshiTTTConfig.from_preset("tiny", ttt=None)
    torch.manual_seed(3)
    return build_lm_model(config).eval(), config


def load_ours(lm_model: Any, config: MoshiTTTConfig) -> MoshiTTTForConditionalGeneration:
    model = MoshiTTTForConditionalGeneration(config).eval()
    model.load_state_dict(from_kyutai_state_dict(lm_model.state_dict(), config))
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
    ours = from_kyutai_state_dict(lm_model.state_dict(), config)
    exported = to_kyutai_state_dict(ours, config, layout)
    assert len(exported) == keys
    back = from_kyutai_state_dict(exported, config)
    assert ours.keys() == back.keys() and all(torch.equal(ours[key], back[key]) for key in ours)
    torch.manual_seed(4)
    other = build_lm_model(config)
    other.load_state_dict(exported)  # Kyutai's own hooks read the old layout
    assert all(torch.equal(a, b) for a, b in zip(lm_model.parameters(), other.parameters(), strict=True))


def test_full_size_has_kyutais_parameters_and_keys() -> None:
    config = MoshiTTTConfig.from_preset("moshi-7b", ttt=None)
    with torch.device("meta"):
        weights = MoshiTTTForConditionalGeneration(config).state_dict()
        theirs = build_lm_model(config, device="meta").state_dict()
    assert sum(weight.numel() for weight in weights.values()) == 7_687_729_152
    exported = to_kyutai_state_dict(weights, config)
    assert {key: value.shape for key, value in exported.items()} == {key: value.shape for key, value in theirs.items()}
    assert (len(exported), len(to_kyutai_state_dict(weights, config, "old"))) == (439, 355)


def test_published_shape_is_kyutais_own() -> None:
    from moshi.models.loaders import _lm_kwargs

    ours = lm_kwargs(MoshiTTTConfig.from_preset("moshi-7b", ttt=None))
    assert {key: ours[key] for key in _lm_kwargs if key in ours and key != "depformer_dim_feedforward"} == {
        key: value for key, value in _lm_kwargs.items() if key in ours and key != "depformer_dim_feedforward"
    }


def test_unknown_keys_are_refused(make_model: Callable[..., MoshiTTTForConditionalGeneration]) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="'transformer.layers.0.norm3.alpha' is no weight of a Moshi checkpoint"):
        from_kyutai_state_dict({"transformer.layers.0.norm3.alpha": torch.zeros(1)}, model.config)
    with pytest.raises(ValueError, match="ttt_gate.weight' is no weight of a Moshi checkpoint"):
        to_kyutai_state_dict(model.state_dict(), model.config)
