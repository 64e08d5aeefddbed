"""The one door to Kyutai's `moshi`: its configuration and weight names, both checkpoint layouts, LoRA, its own model.

The published 7B uses the old layout (355 keys, all codebooks of a depth attention linear stacked in one tensor); the
current package writes the new one (439 keys). moshi-finetune writes LoRA weights beside the same configuration.
Kyutai's words (`n_q`, `dep_q`, `card`, `context`) stay in this file.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .lazy_weights import LazyTensor, combined, renamed

# Kyutai's key in the new layout -> ours; N is a number.
_NAMES = {
    "text_emb.weight": "model.embed_text.weight",
    "emb.N.weight": "model.embed_audio.N.weight",
    "out_norm.alpha": "model.norm.weight",
    "text_linear.weight": "lm_head.weight",
    "transformer.layers.N.norm1.alpha": "model.layers.N.input_layernorm.weight",
    "transformer.layers.N.norm2.alpha": "model.layers.N.post_attention_layernorm.weight",
    "transformer.layers.N.self_attn.in_projs.0.weight": "model.layers.N.self_attn.qkv_proj.weight",
    "transformer.layers.N.self_attn.out_projs.0.weight": "model.layers.N.self_attn.o_proj.weight",
    "transformer.layers.N.gating.linear_in.weight": "model.layers.N.mlp.fc1.weight",
    "transformer.layers.N.gating.linear_out.weight": "model.layers.N.mlp.fc2.weight",
    "depformer_text_emb.weight": "depth_decoder.embed_text.weight",
    "depformer_emb.N.weight": "depth_decoder.embed_audio.N.weight",
    "depformer_in.N.weight": "depth_decoder.input_projections.N.weight",
    "linears.N.weight": "depth_decoder.lm_heads.N.weight",
    "depformer.layers.N.norm1.alpha": "depth_decoder.layers.N.input_layernorm.weight",
    "depformer.layers.N.norm2.alpha": "depth_decoder.layers.N.post_attention_layernorm.weight",
    "depformer.layers.N.self_attn.in_projs.N.weight": "depth_decoder.layers.N.qkv_proj.N.weight",
    "depformer.layers.N.self_attn.out_projs.N.weight": "depth_decoder.layers.N.o_proj.N.weight",
    "depformer.layers.N.gating.N.linear_in.weight": "depth_decoder.layers.N.mlp.N.fc1.weight",
    "depformer.layers.N.gating.N.linear_out.weight": "depth_decoder.layers.N.mlp.N.fc2.weight",
}
_OURS_TO_KYUTAI = {ours: kyutai for kyutai, ours in _NAMES.items()}
# A weight of the old layout that holds all codebooks -> the pattern of its parts in the new one.
_STACKED = re.compile(r"(?P<module>.*self_attn)\.(?P<side>in|out)_proj[._](?P<name>weight|lora_[AB]\.weight)")
_SPLIT = re.compile(r"(?P<module>.*self_attn)\.(?P<side>in|out)_projs\.(?P<index>\d+)\.weight")

_NORM_EPS = 1e-8
# Keys of a configuration that our model follows, with the values that `LMModel` takes where they are absent.
_FOLLOWED: dict[str, Any] = {
    "dim": 128, "text_card": 32000, "existing_text_padding_id": 3, "existing_text_end_padding_id": 0, "n_q": 8,
    "dep_q": 8, "card": 1024, "num_heads": 8, "num_layers": None, "hidden_scale": 4, "context": None,
    "max_period": 10000, "depformer_dim": 256, "depformer_dim_feedforward": None, "depformer_num_heads": None,
    "depformer_num_layers": None, "delays": [0],
}  # fmt: skip
# Keys of which our model knows one value, and what `LMModel` takes where they are absent.
_FIXED: dict[str, tuple[Any, Any]] = {
    "causal": (True, True), "layer_scale": (None, None), "gating": ("silu", "none"),
    "norm": ("rms_norm_f32", "layer_norm"), "positional_embedding": ("rope", "sin"), "norm_emb": (False, False),
    "positional_scale": (1.0, 1.0), "betas": (None, None),
    "bias_proj": (False, False), "kv_repeat": (1, 1), "cross_attention": (False, False), "quantize": (False, False),
    "depformer_gating": ("silu", "silu"), "depformer_layer_scale": (None, None), "depformer_norm": (None, None),
    "depformer_pos_emb": ("none", "sin"), "depformer_multi_linear": (True, False),
    "depformer_weights_per_step": (True, False), "depformer_weights_per_step_schedule": (None, None),
    "depformer_low_rank_embeddings": (None, None), "depformer_kv_repeat": (1, 1), "demux_second_stream": (False, False),
    "demux_second_text_stream": (False, False), "extra_heads_num_heads": (0, 0), "model_type": ("moshi", "moshi"),
}  # fmt: skip
# Keys without influence on the function: files, provenance, how others sample, what the package ignores here.
_FREE = {
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "lora", "lora_rank", "lora_scaling",
    "lm_gen_config", "tts_config", "stt_config", "model_id", "depformer_causal", "depformer_context",
    "depformer_max_period", "extra_heads_dim", "gradient_checkpointing",
}  # fmt: skip


def is_kyutai_config(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is Kyutai's, by its flat keys."""
    return "dim" in raw and "n_q" in raw


def config_from_kyutai(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The plain Moshi that a config.json of Kyutai describes, as keys of our configuration.

    Raises:
        ValueError: an unknown key, or a value that our model cannot follow.
    """
    _require_supported(raw)
    values = {key: raw.get(key, default) for key, default in _FOLLOWED.items()}
    for key in ("num_layers", "context"):
        _require(key, values[key], values[key] is not None, "given")
    _require("n_q", values["n_q"], values["n_q"] == 2 * values["dep_q"], f"twice dep_q={values['dep_q']}")
    scale = values["hidden_scale"]
    depth_dim, depth_scaled = values["depformer_dim"], values["depformer_dim_feedforward"]
    if isinstance(depth_scaled, list):
        _require("depformer_dim_feedforward", depth_scaled, len(set(depth_scaled)) == 1, "the same in every step")
        depth_scaled = depth_scaled[0]
    return {
        "hidden_size": values["dim"],
        "num_hidden_layers": values["num_layers"],
        "num_attention_heads": values["num_heads"],
        "ffn_dim": _ffn_dim(int(scale * values["dim"]), values["dim"]),
        "sliding_window": values["context"],
        "rope_theta": values["max_period"],
        "rms_norm_eps": _NORM_EPS,
        "num_codebooks": values["dep_q"],
        "codebook_size": values["card"],
        "text_vocab_size": values["text_card"],
        "pad_token_id": values["existing_text_padding_id"],
        "end_pad_token_id": values["existing_text_end_padding_id"],
        "delays": values["delays"],
        "depth_decoder_config": {
            "hidden_size": depth_dim,
            "num_hidden_layers": values["depformer_num_layers"] or values["num_layers"],
            "num_attention_heads": values["depformer_num_heads"] or values["num_heads"],
            "ffn_dim": _ffn_dim(int(scale * depth_dim) if depth_scaled is None else depth_scaled, depth_dim),
        },
    }


def _require_supported(raw: Mapping[str, Any]) -> None:
    for key, (allowed, default) in _FIXED.items():
        value = raw.get(key, default)
        _require(key, value, value == allowed, f"{allowed!r}: our model is Moshi as Kyutai published it")
    conditions = [raw.get("conditioners"), *(raw.get("fuser") or {}).values()]
    _require("conditioners", raw.get("conditioners"), not any(conditions), "empty: conditions are not supported")
    text_out = raw.get("text_card_out")
    _require("text_card_out", text_out, text_out in (None, raw.get("text_card", 32000)), "text_card or absent")
    known = _FOLLOWED.keys() | _FIXED.keys() | _FREE | {"conditioners", "fuser", "text_card_out"}
    unknown = sorted(raw.keys() - known)
    if unknown:
        raise ValueError(f"Kyutai's config.json has keys that are not understood: {', '.join(unknown)}.")


def _require(key: str, value: object, condition: bool, allowed: str) -> None:
    if not condition:
        raise ValueError(f"Kyutai's config.json has {key}={value!r}, but it must be {allowed}.")


def _ffn_dim(dim_feedforward: int, dim: int) -> int:
    """Rows of a gated feed-forward's first projection: twice Kyutai's hidden width."""
    return 2 * (21 * dim // 8 if dim_feedforward == 4 * dim else 2 * dim_feedforward // 3)


def from_kyutai(weights: Mapping[str, LazyTensor], num_codebooks: int) -> dict[str, LazyTensor]:
    """Our names for the weights of a Kyutai checkpoint of either layout. TTT weights are not in it.

    Raises:
        ValueError: keys that no Moshi checkpoint has.
    """
    converted, unknown = {}, []
    for key, value in _to_new_layout(weights, num_codebooks).items():
        name = renamed(key, _NAMES)
        if name is None:
            unknown.append(key)
        else:
            converted[name] = value.reshape(value.shape[-1]) if key.endswith(".alpha") else value
    _refuse_unknown(unknown)
    return converted


def merge_lora(
    weights: Mapping[str, LazyTensor], lora: Mapping[str, LazyTensor], scaling: float, num_codebooks: int
) -> dict[str, LazyTensor]:
    """The weights of a Kyutai checkpoint with those of a moshi-finetune `lora.safetensors` merged into them.

    `W + scaling * B A` is computed in float32 and rounded once. Whole weights in the LoRA file (embeddings, with
    `ft_embed`) replace those of the checkpoint. Keys are of either layout.

    Raises:
        ValueError: LoRA weights that are incomplete, of wrong shape, or for a weight that is not there.
    """
    merged, adapters = _to_new_layout(weights, num_codebooks), _to_new_layout(lora, num_codebooks)
    for key, value in adapters.items():
        module, _, kind = key.removesuffix(".weight").rpartition(".")
        name = f"{module}.weight" if kind in ("lora_A", "lora_B") else key
        if name not in merged:
            raise ValueError(f"{key!r} of the LoRA weights belongs to no weight of its base.")
        if kind == "lora_A":
            up = adapters.get(f"{module}.lora_B.weight")
            if up is None:
                raise ValueError(f"{key!r} of the LoRA weights is without its lora_B.")
            merged[name] = _with_lora(name, merged[name], value, up, scaling)
        elif kind == "lora_B":
            if f"{module}.lora_A.weight" not in adapters:
                raise ValueError(f"{key!r} of the LoRA weights is without its lora_A.")
        else:
            merged[name] = value
    return merged


def _with_lora(name: str, base: LazyTensor, down: LazyTensor, up: LazyTensor, scaling: float) -> LazyTensor:
    if (up.shape[0], down.shape[1]) != base.shape or up.shape[1] != down.shape[0]:
        shapes = f"lora_B {list(up.shape)} and lora_A {list(down.shape)}"
        raise ValueError(f"{name}: {shapes} do not fit a weight of shape {list(base.shape)}.")

    def merge(tensors: list[Tensor]) -> Tensor:
        wide = [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]
        return (wide[0] + scaling * (wide[2] @ wide[1])).to(tensors[0].dtype)

    return combined([base, down, up], merge, base.shape)


def to_kyutai(weights: Mapping[str, Tensor], layout: Literal["old", "new"] = "new") -> dict[str, Tensor]:
    """Kyutai's names for our weights, in either layout.

    Raises:
        ValueError: weights that Kyutai's model has no place for, such as TTT weights.
    """
    converted, unknown = {}, []
    for key, value in weights.items():
        name = renamed(key, _OURS_TO_KYUTAI)
        if name is None:
            unknown.append(key)
        else:
            converted[name] = value.view(1, 1, -1) if name.endswith(".alpha") else value
    _refuse_unknown(unknown)
    return _to_old_layout(converted) if layout == "old" else converted


def _refuse_unknown(keys: list[str]) -> None:
    if keys:
        raise ValueError(f"{len(keys)} weights have no place in Moshi: {', '.join(sorted(keys)[:5])}.")


def _to_new_layout(weights: Mapping[str, LazyTensor], num_codebooks: int) -> dict[str, LazyTensor]:
    converted = {}
    for key, value in weights.items():
        match = _STACKED.fullmatch(key)
        if match is None:
            converted[key] = value
        else:
            count = num_codebooks if key.startswith("depformer.") else 1
            prefix = f"{match['module']}.{match['side']}_projs"
            converted.update({f"{prefix}.{i}.{match['name']}": part for i, part in enumerate(value.chunk(count))})
    return converted


def _to_old_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    stacked: dict[str, dict[int, Tensor]] = {}
    for key, value in weights.items():
        match = _SPLIT.fullmatch(key)
        if match is None:
            converted[key] = value
        else:
            name = f"{match['module']}.{'in_proj_weight' if match['side'] == 'in' else 'out_proj.weight'}"
            stacked.setdefault(name, {})[int(match["index"])] = value
    joined = {name: torch.cat([parts[i] for i in sorted(parts)]) for name, parts in stacked.items()}
    return converted | joined


def config_to_kyutai(config: Any) -> dict[str, Any]:
    """Kyutai's description of the plain Moshi inside a `MoshiTTTConfig`: the arguments of its `LMModel`.

    Raises:
        ValueError: a value that Kyutai's package has no key for.
    """
    if config.rms_norm_eps != _NORM_EPS:
        raise ValueError(f"rms_norm_eps={config.rms_norm_eps!r}, but Kyutai's norm has {_NORM_EPS}.")
    depth = config.depth_decoder_config
    scaled = _dim_feedforward(config.ffn_dim, config.hidden_size)
    exact = scaled / config.hidden_size
    return {
        "dim": config.hidden_size,
        "text_card": config.text_vocab_size,
        "existing_text_padding_id": config.pad_token_id,
        "existing_text_end_padding_id": config.end_pad_token_id,
        "n_q": 2 * config.num_codebooks,
        "dep_q": config.num_codebooks,
        "card": config.codebook_size,
        "num_heads": config.num_attention_heads,
        "num_layers": config.num_hidden_layers,
        # Kyutai takes the whole part of hidden_scale * dim.
        "hidden_scale": exact if int(exact * config.hidden_size) == scaled else (scaled + 0.5) / config.hidden_size,
        "causal": True,
        "context": config.sliding_window,
        "max_period": config.rope_theta,
        "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "depformer_dim": depth.hidden_size,
        "depformer_dim_feedforward": _dim_feedforward(depth.ffn_dim, depth.hidden_size),
        "depformer_num_heads": depth.num_attention_heads,
        "depformer_num_layers": depth.num_hidden_layers,
        "depformer_multi_linear": True,
        "depformer_context": config.num_codebooks,
        "depformer_max_period": config.rope_theta,
        "depformer_gating": "silu",
        "depformer_pos_emb": "none",
        "depformer_weights_per_step": True,
        "delays": config.delays,
    }


def _dim_feedforward(ffn_dim: int, hidden_size: int) -> int:
    """Kyutai's number for a gated feed-forward whose hidden width is `ffn_dim / 2` (two thirds of it, rounded down)."""
    hidden = ffn_dim // 2
    for candidate in (-(-3 * hidden // 2), -(-3 * hidden // 2) + 1):
        if _ffn_dim(candidate, hidden_size) == ffn_dim:
            return candidate
    raise ValueError(f"ffn_dim={ffn_dim} at hidden_size={hidden_size} has no counterpart in Kyutai's package.")


def build_lm_model(config: Any, **options: Any) -> Any:
    """Kyutai's own `LMModel` of the same shape, freshly initialised; `options` are its device and dtype.

    Raises:
        ImportError: Kyutai's package is not installed.
    """
    try:
        from moshi.models.lm import LMModel
    except ImportError as error:
        raise ImportError("Kyutai's package is missing: pip install --no-deps moshi==0.2.13") from error
    return LMModel(**config_to_kyutai(config), **options)
