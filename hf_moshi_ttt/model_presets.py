"""What has a name: configurations, as keys and values that differ from the defaults, and forms of the TTT section."""

from typing import Any

MODEL_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "ffn_dim": 128,
        "sliding_window": 16,
        "codebook_size": 32,
        "text_vocab_size": 64,
        "depth_decoder_config": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64},
        "ttt": {"mini_batch_size": 4, "ttt_mlp_expansion_factor": 2},
    },
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "ffn_dim": 1408,
        "sliding_window": 125,
        "text_vocab_size": 2000,
        "depth_decoder_config": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 704},
        "ttt": {},
    },
    "moshi-7b": {"depth_decoder_config": {}, "ttt": {}},
}

_PUBLISHED: dict[str, Any] = {
    "update": "all", "step": "mean", "key_convolution_width": 1, "key_lag_frames": 0, "centering_horizon_frames": 0,
    "query_start": "own", "output_gate": "none", "initial_gating_alpha": 0.1,
}  # fmt: skip
# What a key of the TTT section is where it is not given, by preset.
_SECTIONS: dict[str, dict[str, Any]] = {
    "default": {
        "update": "last", "step": "online", "forget": "learned", "key_convolution_width": 4, "key_lag_frames": 1,
        "centering_horizon_frames": 64, "query_start": "key", "output_gate": "none", "initial_gating_alpha": 1.0,
    },
    "mini_batch": {**_PUBLISHED, "forget": "learned"},
    "paper": {**_PUBLISHED, "forget": "none"},
}  # fmt: skip
# What of the section `in_place` does not choose.
FIXED_IN_PLACE: dict[str, Any] = {
    "update": "last", "step": "constant", "forget": "none", "key_convolution_width": 1, "key_lag_frames": 0,
    "centering_horizon_frames": 0, "query_start": "own", "output_gate": "none", "answer_gate": "none",
}  # fmt: skip
_IN_PLACE = {
    **FIXED_IN_PLACE, "initial_gating_alpha": 1.0, "target_convolution_width": 5, "target_lookahead_frames": 2,
}  # fmt: skip
_MINI_BATCH_BASE_LR = 3.0
_IN_PLACE_BASE_LR = 3.0  # of the authors' code, and the best of 0.01 to 3 in docs/results.md


def section_presets(preset: str, learner: str) -> dict[str, Any]:
    """What each key of a TTT section is that is not given; those of an unknown preset are the default's."""
    return _IN_PLACE if learner == "in_place" else _SECTIONS.get(preset, _SECTIONS["default"])


def default_base_lr(learner: str, preset: str, step: str, depth: int) -> float:
    """What `base_lr` is where it is not given."""
    if learner == "in_place":
        return _IN_PLACE_BASE_LR
    if step == "online":
        return 1.0
    if preset == "paper":
        return 1.0 if depth == 1 else 0.1
    return _MINI_BATCH_BASE_LR
