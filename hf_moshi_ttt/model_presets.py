"""The configurations that have a name, as keys and values of a `MoshiTTTConfig` that differ from its defaults."""

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
