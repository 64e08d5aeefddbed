"""Configuration of TTT-Moshi: every default and every bound, once.

`MoshiTTTConfig` describes Kyutai's Moshi in transformers' field names. Its section `ttt` describes the
test-time-training layers; `ttt=None` is plain Moshi. Configurations are strict: an unknown key, a wrong type or a value
out of bounds raises and says what is allowed. Everything that changes the function the model computes is set here, so
that a checkpoint's config.json is enough to run it.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_ttt import TTTConfig
from .strict_config import StrictConfig, merged


@strict
class MoshiTTTDepthConfig(StrictConfig):
    """The depth transformer, which predicts the codebooks of one frame in order.

    Args:
        ffn_dim: Rows of the gated feed-forward's first projection: twice its hidden width.
    """

    model_type = "moshi_ttt_depth"

    hidden_size: int = 1024
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    ffn_dim: int = 5632

    def validate_bounds(self) -> None:
        """Part of `@strict` validation."""
        _require_transformer_shape(self)


@strict
class MoshiTTTConfig(StrictConfig):
    r"""Moshi with test-time-training layers. The defaults are Kyutai's 7B.

    A frame is 80 ms. Streams are ordered text, Moshi's `num_codebooks` codebooks, the user's `num_codebooks` codebooks.

    Args:
        ffn_dim: Rows of the gated feed-forward's first projection: twice its hidden width.
        sliding_window: Frames that attention sees, the current one included.
        num_codebooks: Codebooks per speaker.
        codebook_size: Ids per codebook; the id `codebook_size` is the initial token.
        text_vocab_size: Ids of the text tokenizer; the id `text_vocab_size` is the initial token.
        delays: Delay in frames of each stream, first text, then Moshi's and the user's codebooks.
        pad_token_id: Text id of a frame without a new token.
        end_pad_token_id: Text id of the frame before a word (EPAD); a row of it is the "zero" text stream.
        text_loss_weight: Weight of the text loss in the sum; 0 for audio-only data.
        text_padding_weight: Weight of PAD and EPAD targets in the text loss.
        first_codebook_weight_multiplier: Weight of codebook 0 in the audio loss, the others having 1.
        codec: Name or path of the codec whose codes the model was trained on, for provenance and for inference.
        text_tokenizer: Name or path of the SentencePiece model, likewise.
        text_stream: The text row of audio-only recordings: `"zero"` (EPAD ids), `"pad"` or `"none"` (-1).
        user_stream: What stands in the user's rows of mono recordings: `"duplicate"` of the recording, `"silence"`
            (codes of digital silence) or `"none"` (-1).
        ttt: The TTT section, or None for plain Moshi.
    """

    model_type = "moshi_ttt"
    state_free_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "text_loss_weight", "text_padding_weight", "first_codebook_weight_multiplier",
            "codec", "text_tokenizer", "text_stream", "user_stream",
        }
    ) | {f"ttt.{key}" for key in TTTConfig.state_free_keys - {"layers"}}  # fmt: skip
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "depth_decoder_config": MoshiTTTDepthConfig,
        "ttt": SubConfigSpec(config_class=TTTConfig, optional=True),
    }

    hidden_size: int = 4096
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    ffn_dim: int = 22528
    sliding_window: int = 3000
    rope_theta: float | int = 10000.0
    rms_norm_eps: float | int = 1e-8
    num_codebooks: int = 8
    codebook_size: int = 2048
    text_vocab_size: int = 32000
    pad_token_id: int = 3
    end_pad_token_id: int = 0
    text_loss_weight: float | int = 1.0
    text_padding_weight: float | int = 0.5
    first_codebook_weight_multiplier: float | int = 100.0
    codec: str = "kyutai/mimi"
    text_tokenizer: str | None = None
    text_stream: Literal["zero", "pad", "none"] = "zero"
    user_stream: Literal["duplicate", "silence", "none"] = "duplicate"
    if TYPE_CHECKING:  # what these are once the object is made
        depth_decoder_config: MoshiTTTDepthConfig
        ttt: TTTConfig | None
        delays: list[int]
    else:
        depth_decoder_config: dict | PreTrainedConfig | None = None
        ttt: dict | PreTrainedConfig | None = None
        delays: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.delays is None:
            self.delays = [0] + 2 * ([0] + [1] * (self.num_codebooks - 1))
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> "MoshiTTTConfig":
        """A configuration by name, with keys changed; the dicts `ttt` and `depth_decoder_config` change single keys.

        Args:
            preset: `"tiny"` (tests), `"small"` (one CPU, minutes) or `"moshi-7b"` (Kyutai's checkpoint).

        Raises:
            ValueError: unknown preset, unknown key or value out of bounds.
        """
        if preset not in _PRESETS:
            raise ValueError(f"preset={preset!r}, but the presets are {', '.join(_PRESETS)}.")
        return cls(**merged(_PRESETS[preset], overrides))

    @classmethod
    def current_state_values(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """As `StrictConfig`'s, with the section's values."""
        section = {key.removeprefix("ttt."): value for key, value in stored.items() if key.startswith("ttt.")}
        if not section:
            return stored
        current = {f"ttt.{key}": value for key, value in TTTConfig.current_state_values(section).items()}
        return {**{key: value for key, value in stored.items() if not key.startswith("ttt.")}, **current}

    @property
    def num_streams(self) -> int:
        """K: text, Moshi's codebooks, the user's codebooks."""
        return 1 + 2 * self.num_codebooks

    @property
    def max_delay_frames(self) -> int:
        """The longest delay of any stream."""
        return max(self.delays)

    @property
    def ttt_layer_indices(self) -> list[int]:
        """The temporal layers that carry a TTT block; empty for plain Moshi."""
        return [] if self.ttt is None else self.ttt.layer_indices(self.num_hidden_layers)

    def validate_bounds(self) -> None:
        """Part of `@strict` validation."""
        _require_transformer_shape(self)
        head_dim = self.hidden_size // self.num_attention_heads
        self.require("num_attention_heads", head_dim % 2 == 0, f"such that the head width {head_dim} is even (RoPE)")
        for key in ("sliding_window", "num_codebooks", "codebook_size"):
            self.require(key, getattr(self, key) >= 1, "at least 1")
        self.require("text_vocab_size", self.text_vocab_size >= 4, "at least 4 (EPAD, bos, eos, PAD)")
        for key in ("pad_token_id", "end_pad_token_id"):
            self.require(key, 0 <= getattr(self, key) < self.text_vocab_size, f"in 0..{self.text_vocab_size - 1}")
        for key in ("rope_theta", "rms_norm_eps"):
            self.require(key, getattr(self, key) > 0, "above 0")
        for key in ("text_loss_weight", "text_padding_weight", "first_codebook_weight_multiplier"):
            self.require(key, getattr(self, key) >= 0, "0 or more")
        self._require_delays()
        if self.ttt is not None:
            self.ttt.require_heads(self.num_attention_heads)
        _ = self.ttt_layer_indices

    def _require_delays(self) -> None:
        delays = self.delays
        self.require("delays", len(delays) == self.num_streams, f"a list of {self.num_streams} frames, one a stream")
        self.require("delays", min(delays) >= 0 and delays[0] == 0, "0 or more, and 0 for text")


def _require_transformer_shape(config: MoshiTTTConfig | MoshiTTTDepthConfig) -> None:
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim"):
        config.require(key, getattr(config, key) >= 1, "at least 1")
    heads = config.num_attention_heads
    config.require("hidden_size", config.hidden_size % heads == 0, f"a multiple of num_attention_heads={heads}")
    config.require("ffn_dim", config.ffn_dim % 2 == 0, "even (it holds the gate and the value)")


_PRESETS: dict[str, dict[str, Any]] = {
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

AutoConfig.register(MoshiTTTConfig.model_type, MoshiTTTConfig)
