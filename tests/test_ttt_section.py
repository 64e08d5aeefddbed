"""The TTT section: what each preset gives, what is refused, and what sections and states of 0.1.0 become."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from hf_moshi_ttt.memory.layer import TTTLayer
from hf_moshi_ttt.transformer.stream_state import StreamState

# The section that hf_moshi_ttt 0.1.0 (commit 1ed5739) writes into a config.json by default.
OF_0_1_0 = {
    "base_lr": 3.0, "forget": "learned", "initial_gating_alpha": 0.1, "initial_keep_factor": 0.998, "layers": "middle",
    "learner": "ttt", "mini_batch_size": 16, "model_type": "moshi_ttt_section", "output_bias": True,
    "persistent_states": False, "preset": "default", "step": "mean", "ttt_mlp_expansion_factor": 4,
    "ttt_mlp_layers": 2, "update": "all",
}  # fmt: skip
KEYS = ("update", "step", "base_lr", "key_convolution_width", "key_lag_frames", "centering_horizon_frames",
        "query_start", "output_gate", "answer_gate", "initial_gating_alpha")  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("default", ("last", "online", 1.0, 4, 1, 64, "key", "none", "agreement", 1.0)),
        ("mini_batch", ("all", "mean", 3.0, 1, 0, 0, "own", "none", "none", 0.1)),
        ("paper", ("all", "mean", 0.1, 1, 0, 0, "own", "none", "none", 0.1)),
    ],
)
def test_presets(preset: str, values: tuple) -> None:
    config = TTTConfig(preset=preset)
    assert tuple(getattr(config, key) for key in KEYS) == values
    assert config.has_front_end == (preset == "default")
    assert TTTConfig(preset=preset, key_convolution_width=2).key_convolution_width == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"update": "all"},
            "update='all', but update must be 'last' with step='online' .for steps of all inner layers",
        ),
        ({"base_lr": 1.5}, "base_lr=1.5, but base_lr must be at most 1 with step='online', so that a write is bounded"),
        ({"base_lr": float("inf"), "preset": "mini_batch"}, "base_lr=inf, but base_lr must be above 0"),
        (
            {"initial_gating_alpha": 0},
            "initial_gating_alpha=0, .* must be finite and not 0",
        ),
        ({"initial_gating_alpha": float("nan")}, "initial_gating_alpha=nan, but .* must be finite and not 0"),
        ({"key_convolution_width": 0}, "key_convolution_width=0, but .* at least 1 frame .1 for none"),
        ({"key_lag_frames": 2}, "key_lag_frames=2, but key_lag_frames must be 0 or 1"),
        ({"centering_horizon_frames": 1}, r"=1, but .* must be 0 \(no centring\) or at least 2 frames"),
        ({"same_frame_heads": -1}, "same_frame_heads=-1, but same_frame_heads must be 0 or more"),
        (
            {"same_frame_heads": 1, "preset": "mini_batch"},
            "same_frame_heads=1, but same_frame_heads must be 0 without key_convolution_width or key_lag_frames",
        ),
        ({"key_convolution_init": "zeros"}, "key_convolution_init"),
        ({"query_start": "value"}, "query_start"),
        ({"output_gate": "silu"}, "output_gate"),
        ({"answer_gate": "error"}, "answer_gate"),
        ({"answer_gate": "agreement", "key_lag_frames": 0}, "'none' without step='online' and key_lag_frames=1"),
        ({"answer_gate": "agreement", "preset": "paper"}, "no answer is about the next frame"),
        ({"step": "batch"}, "step"),
        ({"preset": "old"}, "preset"),
    ],
)
def test_values_out_of_bounds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):  # transformers raises its own error for wrong literals
        TTTConfig(**changes)


def test_in_place_has_keys_of_its_own_and_refuses_the_others() -> None:
    config = TTTConfig(learner="in_place", mini_batch_size=8)
    assert (config.target_convolution_width, config.target_lookahead_frames) == (5, 2)
    assert (config.update, config.step, config.forget, config.has_front_end) == ("last", "constant", "none", False)
    assert TTTConfig(learner="in_place").base_lr == 3.0 and TTTConfig().target_convolution_width is None
    stored = MoshiTTTConfig.from_preset("tiny", ttt={"learner": "in_place"}).to_dict()
    assert MoshiTTTConfig.from_dict(stored).ttt.own_values() == TTTConfig(**stored["ttt"]).own_values()
    assert MoshiTTTConfig.from_dict({"ttt": {"learner": "in_place"}}).ttt.preset == "default"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learner": "ttt", "target_lookahead_frames": 1}, "must be left out with learner='ttt'"),
        ({"target_convolution_width": 0}, "target_convolution_width must be at least 1 frame"),
        ({"target_lookahead_frames": 5}, r"=5, but target_lookahead_frames must be in 0\.\.4, inside the convolution"),
        ({"target_lookahead_frames": -1}, r"must be in 0\.\.4"),
        ({"key_lag_frames": 1}, "key_lag_frames=1, but key_lag_frames must be 0 with learner='in_place'"),
        ({"step": "online"}, "step='online', but step must be 'constant' with learner='in_place'"),
        ({"forget": "learned"}, "must be 'none' with learner='in_place'"),
        ({"preset": "paper"}, "preset='paper', but preset must be 'default' with learner='in_place'"),
    ],
)
def test_keys_that_in_place_does_not_read_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TTTConfig(**{"learner": "in_place", **changes})


def test_more_one_frame_heads_than_heads_are_refused() -> None:
    message = "same_frame_heads=3, but same_frame_heads must be at most the 2 heads"
    with pytest.raises(ValueError, match=message):
        MoshiTTTConfig.from_preset("tiny", ttt={"same_frame_heads": 3})
    with pytest.raises(ValueError, match=message):
        TTTLayer(32, 2, TTTConfig(same_frame_heads=3))
    with pytest.raises(ValueError, match="must be below the 2 heads with answer_gate='agreement'"):
        TTTLayer(32, 2, TTTConfig(same_frame_heads=2))
    TTTLayer(32, 2, TTTConfig(same_frame_heads=2, answer_gate="none"))


def test_a_section_of_0_1_0_is_what_it_was() -> None:
    config = MoshiTTTConfig.from_dict({"ttt": dict(OF_0_1_0)}).ttt
    assert config.own_values() == TTTConfig(preset="mini_batch").own_values()
    paper = {**OF_0_1_0, "preset": "paper", "base_lr": 0.1, "forget": "none"}
    assert MoshiTTTConfig.from_dict({"ttt": paper}).ttt.own_values() == TTTConfig(preset="paper").own_values()
    gated = MoshiTTTConfig.from_dict({"ttt": {**OF_0_1_0, "learner": "gated_delta"}}).ttt
    assert not gated.has_front_end and gated.preset == "mini_batch"


@pytest.mark.parametrize("preset", ["default", "mini_batch", "paper"])
def test_a_section_of_today_survives_its_file(preset: str, tmp_path: Path) -> None:
    config = MoshiTTTConfig.from_preset("tiny", ttt={"preset": preset})
    config.save_pretrained(tmp_path)
    assert MoshiTTTConfig.from_pretrained(tmp_path).own_values() == config.own_values()


class _StateOf010:
    """What a state is saved with, as 0.1.0 did: without the keys of the front end, presets as they were called."""

    def __init__(self, config: TTTConfig | MoshiTTTConfig) -> None:
        self.config = config

    def state_values(self) -> dict[str, Any]:
        section, values = "ttt." * isinstance(self.config, MoshiTTTConfig), self.config.state_values()
        known = {f"{section}{key}" for key in OF_0_1_0} | {
            key for key in values if not key.startswith("ttt.") and section
        }
        former = {key: value for key, value in values.items() if key in known}
        return {**former, f"{section}preset": "default"}


def test_a_state_of_0_1_0_continues_a_layer_of_its_form(tmp_path: Path) -> None:
    config = TTTConfig(preset="mini_batch", mini_batch_size=4)
    state: StreamState = TTTLayer(16, 1, config)(torch.randn(1, 7, 16)).state
    state.save(tmp_path / "memory.safetensors", _StateOf010(config))
    loaded = TTTLayer(16, 1, config).init_state(1).load(tmp_path / "memory.safetensors", config)
    assert all(torch.equal(x, loaded.named_tensors()[name]) for name, x in state.named_tensors().items())
    with pytest.raises(ValueError, match=r"saved with \w+=.*, but the model has"):
        TTTLayer(16, 1, TTTConfig()).init_state(1).load(tmp_path / "memory.safetensors", TTTConfig())
    whole = MoshiTTTConfig.from_preset("tiny", ttt={"preset": "mini_batch"})
    assert whole.current_state_values(_StateOf010(whole).state_values()) == whole.state_values()
    plain = MoshiTTTConfig.from_preset("tiny", ttt=None)
    assert plain.current_state_values(plain.state_values()) == plain.state_values()
