"""Configuration of TTT-Moshi: every default and every bound, once.

`MoshiTTTConfig` describes Kyutai's Moshi in transformers' field names. Its section `ttt` describes the
test-time-training layers; `ttt=None` is plain Moshi. Configurations are strict: an unknown key, a wrong type or a value
out of bounds raises and says what is allowed. Everything that changes the function the model computes is set here, so
that a checkpoint's config.json is enough to run it.
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .model_presets import FIXED_IN_PLACE, MODEL_PRESETS, default_base_lr, section_presets
from .strict_config import StrictConfig, merged

_FRONT_END_KEY = "key_convolution_width"  # stored sections are whole: one without this key is of 0.1.0


@strict
class TTTConfig(StrictConfig):
    r"""The test-time-training section. A key that is None takes the preset's value.

    Args:
        layers: Which temporal layers carry a TTT block: `"middle"` (a quarter of them, centred), `"all"`, or a list of
            layer indices.
        learner: What remembers. `"ttt"`: an inner network that takes gradient steps. `"static"`: the same network and
            parameters without inner steps, the control for capacity. `"gated_delta"`: a matrix per head under the gated
            delta rule, the linear baseline; it shares the keys of the front end and reads `forget`, `initial_retention`
            and `mini_batch_size` (frames per retention) of the others. `"in_place"`: the last projection of the
            layer's own feed-forward; it reads `mini_batch_size`, `base_lr` and the `target_` keys alone.
        preset: Which form the layer has. `"default"`: keys of several frames and one gradient step a frame on the last
            inner layer. `"mini_batch"`: RMS-normed q and k of one frame, layer-normed target, steps of mini-batches on
            all inner layers. `"paper"`: the TTT-LM equations (raw q and k, N(0, 0.02) weights, target v - k).
        ttt_mlp_layers: Depth N of the inner network of each head; 1 is linear, 2 the usual TTT-MLP. With
            `step="online"` the first N - 1 layers are features that only the outer loop trains.
        ttt_mlp_expansion_factor: Width of the hidden inner layers in units of the head width. Unused at depth 1.
        mini_batch_size: Frames whose gradients are all taken at the same weights, and frames over which
            `initial_retention` acts. Part of the function the model computes: a checkpoint is run with the value it was
            trained with.
        base_lr: Inner learning rate. With `step="online"` a frame's step is `base_lr * sigmoid(...)`, at most 1, and 1
            makes the memory answer a key with exactly its value; otherwise it is `base_lr * sigmoid(...) / head width`.
            None takes 1.0 (online), the best of `benchmarks/ttt_recall.py` (mini-batches), the paper's 1.0 (linear)
            and 0.1 (MLP), or 3.0 (in_place, where it is the factor on a mini-batch's sum).
        step: `"online"`: each frame takes its own gradient step from the weights that the frame before left. Otherwise
            the weight of the step inside a mini-batch: `"mean"` 1/i as in TTT-LM, `"constant"` 1/C as in TTT-Video.
        update: Which inner layers take steps: `"all"`, or the `"last"` one after the others as fixed features.
        forget: `"learned"` shrinks what was learned by a trained factor, per head after each mini-batch, or with
            `step="online"` per head and frame; `"none"` keeps all of it.
        initial_retention: Initial value of that factor over `mini_batch_size` frames; over 16 frames, 0.998 halves what
            was learned in 7 minutes.
        output_bias: Whether the last inner layer has a bias. With `step="online"` it is the running mean of the values
            within `centering_horizon_frames`, and without such a horizon there is none.
        key_convolution_width: Frames that a key and a query span: a causal convolution per channel. 1 for none.
        key_convolution_init: Start of that convolution, the same for keys and queries: `"random"` binds the frames into
            one key, `"identity"` starts as the last frame alone.
        key_lag_frames: Frames between the end of a key and its value. 1 writes (frames up to t - 1, value of t), so
            that a memory predicts; 0 writes key and value of the same frame.
        centering_horizon_frames: Frames of the running mean of the keys that is subtracted from keys and queries; the
            mean is over all frames so far up to the horizon, and exponential with this time constant beyond. 0 for no
            mean.
        query_start: Whether the query projection starts as a copy of the `"key"` projection, so that a fresh memory is
            addressed by content, or with its `"own"` random weights.
        same_frame_heads: So many heads keep key, query and value of the same frame, without convolution and lag.
        output_gate: `"sigmoid"` scales each channel of the answer by a sigmoid of the frame; `"none"` does not.
        answer_gate: `"agreement"` scales the answer of each head by a sigmoid of how far the answer before came true,
            so that a memory is silent where nothing returns; `"none"` does not. It needs `step="online"` and a
            `key_lag_frames` of 1, where it is what None takes, and is read by `learner="ttt"`.
        target_convolution_width: Frames that a target of `in_place` spans: a convolution per channel over the model's
            input embeddings, within a mini-batch. None takes 5 there, and stays None for other learners.
        target_lookahead_frames: How many of them follow the frame itself. None takes 2 there.
        initial_gating_alpha: Initial value of the per-channel gate; the branch is scaled by `tanh` of it.
        persistent_states: Whether training carries the memory of a recording from one segment to the next.
    """

    model_type = "moshi_ttt_section"
    renamed_keys: ClassVar[dict[str, str]] = {"initial_keep_factor": "initial_retention"}

    state_free_keys: ClassVar[frozenset[str]] = frozenset(
        {"layers", "initial_retention", "key_convolution_init", "query_start", "initial_gating_alpha",
         "persistent_states"}
    )  # fmt: skip

    layers: str | list[int] = "middle"
    learner: Literal["ttt", "static", "gated_delta", "in_place"] = "ttt"
    preset: Literal["default", "mini_batch", "paper"] = "default"
    ttt_mlp_layers: int = 2
    ttt_mlp_expansion_factor: int = 4
    mini_batch_size: int = 16
    initial_retention: float | int = 0.998
    output_bias: bool = True
    key_convolution_init: Literal["random", "identity"] = "random"
    same_frame_heads: int = 0
    persistent_states: bool = False
    if TYPE_CHECKING:  # what these are once the object is made
        base_lr: float | int
        step: Literal["mean", "constant", "online"]
        update: Literal["all", "last"]  # type: ignore[assignment]  # hides PreTrainedConfig.update, a method
        forget: Literal["none", "learned"]
        key_convolution_width: int
        key_lag_frames: int
        centering_horizon_frames: int
        query_start: Literal["key", "own"]
        output_gate: Literal["none", "sigmoid"]
        answer_gate: Literal["none", "agreement"]
        target_convolution_width: int
        target_lookahead_frames: int
        initial_gating_alpha: float | int
    else:
        base_lr: float | int | None = None
        step: Literal["mean", "constant", "online"] | None = None
        update: Literal["all", "last"] | None = None
        forget: Literal["none", "learned"] | None = None
        key_convolution_width: int | None = None
        key_lag_frames: int | None = None
        centering_horizon_frames: int | None = None
        query_start: Literal["key", "own"] | None = None
        output_gate: Literal["none", "sigmoid"] | None = None
        answer_gate: Literal["none", "agreement"] | None = None
        target_convolution_width: int | None = None
        target_lookahead_frames: int | None = None
        initial_gating_alpha: float | int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for key, value in section_presets(self.preset, self.learner).items():
            if getattr(self, key) is None:
                setattr(self, key, value)
        if self.base_lr is None:
            self.base_lr = default_base_lr(self.learner, self.preset, self.step, self.ttt_mlp_layers)
        if self.answer_gate is None:
            self.answer_gate = "agreement" if self._foretells() else "none"
        super().__post_init__(**kwargs)

    def _foretells(self) -> bool:
        """Whether an answer is about the next frame."""
        return self.step == "online" and self.key_lag_frames == 1

    @classmethod
    def with_current_names(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """As `StrictConfig`'s; a section of 0.1.0, which has no key of the front end, gets the preset that it was."""
        current = super().with_current_names(stored)
        is_former = _FRONT_END_KEY not in current and current.get("learner") != "in_place"
        if is_former and current.get("preset", "default") == "default":
            current["preset"] = "mini_batch"
        return current

    @classmethod
    def current_state_values(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """As `StrictConfig`'s; a state of 0.1.0 has the front end and the steps of its preset."""
        current = cls.with_current_names(stored)
        if _FRONT_END_KEY in stored:
            return current
        return {**cls(**{"preset": current["preset"]}).state_values(), **current}

    @property
    def has_front_end(self) -> bool:
        """Whether keys and queries are more than projections of one frame."""
        return self.key_convolution_width > 1 or self.key_lag_frames > 0 or self.centering_horizon_frames > 0

    def validate_bounds(self) -> None:
        """Part of `@strict` validation."""
        self.require("ttt_mlp_layers", self.ttt_mlp_layers >= 1, "at least 1")
        self.require("ttt_mlp_expansion_factor", self.ttt_mlp_expansion_factor >= 1, "at least 1")
        self.require("mini_batch_size", self.mini_batch_size >= 1, "at least 1 frame")
        self.require("base_lr", 0 < self.base_lr < float("inf"), "above 0 (for no inner steps use learner='static')")
        self.require("initial_gating_alpha", 0 < abs(self.initial_gating_alpha) < float("inf"), "finite and not 0")
        self.require("initial_retention", 0 < self.initial_retention < 1, "between 0 and 1, both excluded")
        self._require_in_place()
        self._require_steps()
        self._require_front_end()
        if isinstance(self.layers, str):
            self.require("layers", self.layers in ("middle", "all"), '"middle", "all" or a list of layer indices')
        else:
            increasing = self.layers == sorted(set(self.layers)) and len(self.layers) > 0
            self.require("layers", increasing, "a non-empty list of increasing indices (for no TTT use ttt=None)")

    def _require_steps(self) -> None:
        online = self.step == "online"
        self.require(
            "update", not (online and self.update == "all"),
            "'last' with step='online' (for steps of all inner layers use step='mean' or 'constant')",
        )  # fmt: skip
        self.require(
            "base_lr", not online or self.base_lr <= 1, "at most 1 with step='online', so that a write is bounded"
        )

        allowed = "'none' without step='online' and key_lag_frames=1: no answer is about the next frame"
        self.require("answer_gate", self._foretells() or self.answer_gate == "none", allowed)

    def _require_front_end(self) -> None:
        self.require("key_convolution_width", self.key_convolution_width >= 1, "at least 1 frame (1 for none)")
        self.require("key_lag_frames", self.key_lag_frames in (0, 1), "0 or 1")
        horizon = self.centering_horizon_frames
        self.require("centering_horizon_frames", horizon == 0 or horizon >= 2, "0 (no centring) or at least 2 frames")
        self.require("same_frame_heads", self.same_frame_heads >= 0, "0 or more")
        spans = self.key_convolution_width > 1 or self.key_lag_frames > 0
        allowed = "0 without key_convolution_width or key_lag_frames: then all heads keep one frame"
        self.require("same_frame_heads", spans or self.same_frame_heads == 0, allowed)

    def _require_in_place(self) -> None:
        is_in_place = self.learner == "in_place"
        for key in ("target_convolution_width", "target_lookahead_frames"):
            self.require(key, is_in_place or getattr(self, key) is None, f"left out with learner={self.learner!r}")
        if is_in_place:
            self.require("preset", self.preset == "default", "'default' with learner='in_place'")
            for key, value in FIXED_IN_PLACE.items():
                self.require(key, getattr(self, key) == value, f"{value!r} with learner='in_place'")
            width, ahead = self.target_convolution_width, self.target_lookahead_frames
            self.require("target_convolution_width", width >= 1, "at least 1 frame")
            self.require("target_lookahead_frames", 0 <= ahead < width, f"in 0..{width - 1}, inside the convolution")

    def require_heads(self, num_heads: int) -> None:
        """Raises ValueError where more heads keep one frame than there are."""
        self.require("same_frame_heads", self.same_frame_heads <= num_heads, f"at most the {num_heads} heads")
        all_keep_one = self.same_frame_heads == num_heads and self.answer_gate != "none"
        self.require("same_frame_heads", not all_keep_one, f"below the {num_heads} heads with answer_gate='agreement'")

    def layer_indices(self, num_hidden_layers: int) -> list[int]:
        """The temporal layers that carry a TTT block.

        Raises:
            ValueError: an index of `layers` is not a layer of the model.
        """
        if self.layers == "all":
            return list(range(num_hidden_layers))
        if self.layers == "middle":
            count = max(1, round(num_hidden_layers / 4))
            start = (num_hidden_layers - count) // 2
            return list(range(start, start + count))
        for index in self.layers:
            inside = isinstance(index, int) and 0 <= index < num_hidden_layers
            self.require("layers", inside, f"made of indices from 0 to {num_hidden_layers - 1}")
        return [int(index) for index in self.layers]


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
        codec_sha256: Hash of that codec's weights, compared wherever codes meet the model; None where it is not known.
        text_tokenizer: Name or path of the SentencePiece model, likewise.
        text_tokenizer_sha256: Hash of its file, likewise.
        text_stream: The text row of audio-only recordings: `"zero"` (EPAD ids), `"pad"` or `"none"` (-1).
        user_stream: What stands in the user's rows of mono recordings: `"duplicate"` of the recording, `"silence"`
            (codes of digital silence) or `"none"` (-1).
        ttt: The TTT section, or None for plain Moshi.
    """

    model_type = "moshi_ttt"
    state_free_keys: ClassVar[frozenset[str]] = frozenset(
        {
            "text_loss_weight", "text_padding_weight", "first_codebook_weight_multiplier",
            "codec", "codec_sha256", "text_tokenizer", "text_tokenizer_sha256", "text_stream", "user_stream",
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
    codec_sha256: str | None = None
    text_tokenizer: str | None = None
    text_tokenizer_sha256: str | None = None
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
        if preset not in MODEL_PRESETS:
            raise ValueError(f"preset={preset!r}, but the presets are {', '.join(MODEL_PRESETS)}.")
        return cls(**merged(MODEL_PRESETS[preset], overrides))

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
