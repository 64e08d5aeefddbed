"""A difference between checkpoint and request is applied and reported, or refused with both values."""

from typing import Any

import pytest

from hf_moshi_ttt.checkpoints.config_changes import SAFE_KEYS, config_changes, describe_changes
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig


def tiny(**changes: Any) -> MoshiTTTConfig:
    return MoshiTTTConfig.from_preset("tiny", **changes)


@pytest.mark.parametrize(
    ("asked", "changes"),
    [
        ({}, {}),
        ({"ttt": {"base_lr": 0.5}}, {"ttt.base_lr": (tiny().ttt.base_lr, 0.5)}),
        ({"ttt": {"initial_gating_alpha": 0.3}}, {"ttt.initial_gating_alpha": (1.0, 0.3)}),
        ({"ttt": {"persistent_states": True}}, {"ttt.persistent_states": (False, True)}),
        ({"ttt": {"layers": [1]}}, {}),  # what "middle" means here
        ({"sliding_window": 8}, {"sliding_window": (16, 8)}),
        ({"codec": "x", "text_loss_weight": 0.0}, {"codec": ("kyutai/mimi", "x"), "text_loss_weight": (1.0, 0.0)}),
    ],
)
def test_safe_changes_are_reported(asked: dict[str, Any], changes: dict[str, Any]) -> None:
    assert config_changes(tiny(), tiny(**asked), "here") == changes
    assert len(describe_changes(changes)) == len(changes)


def test_ttt_may_be_added_to_plain_moshi() -> None:
    changes = config_changes(tiny(ttt=None), tiny(sliding_window=8), "here")
    assert changes == {"sliding_window": (16, 8), "ttt": (None, "layers [1]")}
    assert describe_changes(changes)[1] == "ttt: None -> 'layers [1]' (new, with weights that start from scratch)"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ttt": {"mini_batch_size": 8}}, "here: ttt.mini_batch_size is 4, asked for 8. These change shapes or the"),
        ({"ttt": {"ttt_mlp_layers": 5}}, "ttt.ttt_mlp_layers is 2, asked for 5"),
        ({"ttt": {"ttt_mlp_expansion_factor": 4}}, "ttt.ttt_mlp_expansion_factor is 2, asked for 4"),
        ({"ttt": {"learner": "static"}}, "ttt.learner is 'ttt', asked for 'static'"),
        ({"ttt": {"update": "all", "step": "mean"}}, "ttt.update is 'last', asked for 'all'"),
        ({"ttt": {"preset": "paper"}}, "ttt.preset is 'default', asked for 'paper'"),
        ({"ttt": {"step": "constant"}}, "ttt.step is 'online', asked for 'constant'"),
        ({"ttt": {"key_convolution_width": 8}}, "ttt.key_convolution_width is 4, asked for 8"),
        ({"ttt": {"centering_horizon_frames": 0}}, "ttt.centering_horizon_frames is 64, asked for 0"),
        ({"ttt": {"forget": "none"}}, "ttt.forget is 'learned', asked for 'none'"),
        ({"ttt": {"output_bias": False}}, "ttt.output_bias is True, asked for False"),
        ({"ttt": {"initial_retention": 0.9}}, r"ttt.initial_retention is 0\.\d+, asked for 0.9"),
        ({"ttt": {"layers": "all"}}, r"ttt.layers is \[1\], asked for \[0, 1, 2, 3\]"),
        ({"ttt": None}, "ttt is 'present', asked for None"),
        ({"hidden_size": 64}, "hidden_size is 32, asked for 64"),
        ({"rope_theta": 1e5}, "rope_theta is 10000.0, asked for 100000.0"),
        ({"delays": [0] * 17}, "delays is .0, 0, 1.*, asked for .0, 0, 0"),
        (
            {"depth_decoder_config": {"num_hidden_layers": 1}},
            "depth_decoder_config.num_hidden_layers is 2, asked for 1",
        ),
    ],
)
def test_changes_of_shapes_or_function_are_refused_with_both_values(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_changes(tiny(), tiny(**asked), "here")


def test_all_refused_keys_are_named_at_once() -> None:
    asked = tiny(ttt={"mini_batch_size": 8, "step": "constant", "base_lr": 0.5})
    with pytest.raises(ValueError, match="is 4, asked for 8; ttt.step is 'online', .*Free to change: codec"):
        config_changes(tiny(), asked, "here")


def test_what_is_free_to_change_is_declared_key_by_key() -> None:
    """A key that is new in the configuration is refused until it is declared."""
    assert SAFE_KEYS.keys() <= tiny().own_values().keys()
    assert {key for key in SAFE_KEYS if key.startswith("ttt.")} == {
        "ttt.base_lr", "ttt.initial_gating_alpha", "ttt.persistent_states",
    }  # fmt: skip
