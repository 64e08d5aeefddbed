"""The one door to Kyutai's `moshi` package: its names, its two checkpoint layouts, its model as the oracle of ours.

The published 7B uses the old layout (355 keys, all codebooks of a depth linear stacked in one tensor); the current
package writes the new one (439 keys). Kyutai's words (`n_q`, `dep_q`, `card`, `context`) stay in this file.
"""

import re
from typing import Any, Literal

import torch
from torch import Tensor

from .configuration_moshi_ttt import MoshiTTTConfig

# Kyutai's key in the new layout -> ours; N stands for a number.
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
_OLD_NAMES = {"in_proj_weight": "in_projs", "out_proj.weight": "out_projs"}


def from_kyutai_state_dict(weights: dict[str, Tensor], config: MoshiTTTConfig) -> dict[str, Tensor]:
    """Our names for a Kyutai checkpoint of either layout. TTT weights are not in it.

    Raises:
        ValueError: a key that no Moshi checkpoint has.
    """
    converted = {}
    for key, value in _to_new_layout(weights, config).items():
        name = _renamed(key, _NAMES)
        converted[name] = value.flatten() if key.endswith(".alpha") else value
    return converted


def to_kyutai_state_dict(
    weights: dict[str, Tensor], config: MoshiTTTConfig, layout: Literal["old", "new"] = "new"
) -> dict[str, Tensor]:
    """Kyutai's names for our weights, in either layout.

    Raises:
        ValueError: a key that Kyutai's model has no place for, such as a TTT weight.
    """
    ours_to_kyutai = {ours: kyutai for kyutai, ours in _NAMES.items()}
    converted = {}
    for key, value in weights.items():
        name = _renamed(key, ours_to_kyutai)
        converted[name] = value.view(1, 1, -1) if name.endswith(".alpha") else value
    return _to_old_layout(converted, config) if layout == "old" else converted


def _renamed(key: str, names: dict[str, str]) -> str:
    numbers = iter(re.findall(r"\.(\d+)\.", key.replace(".", "..")))
    pattern = re.sub(r"(?<=\.)\d+(?=\.)", "N", key)
    fixed = pattern if pattern in names else re.sub(r"_projs\.N", "_projs.0", pattern)
    if fixed not in names:
        raise ValueError(f"{key!r} is no weight of a Moshi checkpoint that can be converted.")
    return re.sub(r"(?<=\.)N(?=\.)", lambda _: next(numbers), names[fixed])


def _to_new_layout(weights: dict[str, Tensor], config: MoshiTTTConfig) -> dict[str, Tensor]:
    converted = {}
    for key, value in weights.items():
        old = next((name for name in _OLD_NAMES if key.endswith(f"self_attn.{name}")), None)
        if old is None:
            converted[key] = value
            continue
        prefix = key.removesuffix(old) + _OLD_NAMES[old]
        count = config.num_codebooks if key.startswith("depformer.") else 1
        converted.update({f"{prefix}.{i}.weight": part for i, part in enumerate(value.chunk(count))})
    return converted


def _to_old_layout(weights: dict[str, Tensor], config: MoshiTTTConfig) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    stacked: dict[str, dict[int, Tensor]] = {}
    for key, value in weights.items():
        match = re.fullmatch(r"(.*self_attn)\.(in|out)_projs\.(\d+)\.weight", key)
        if match is None:
            converted[key] = value
        else:
            prefix, side, index = match.groups()
            name = f"{prefix}.{'in_proj_weight' if side == 'in' else 'out_proj.weight'}"
            stacked.setdefault(name, {})[int(index)] = value
    joined = {name: torch.cat([parts[i] for i in sorted(parts)]) for name, parts in stacked.items()}
    return converted | joined


def lm_kwargs(config: MoshiTTTConfig) -> dict[str, Any]:
    """Kyutai's description of the plain Moshi inside `config`.

    Raises:
        ValueError: a feed-forward width that Kyutai's rule cannot express.
    """
    depth = config.depth_decoder_config
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
        "hidden_scale": _dim_feedforward(config.ffn_dim, config.hidden_size) / config.hidden_size,
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
        if candidate != 4 * hidden_size and 2 * candidate // 3 == hidden:
            return candidate
    raise ValueError(f"ffn_dim={ffn_dim} at hidden_size={hidden_size} has no counterpart in Kyutai's package.")


def build_lm_model(config: MoshiTTTConfig, **options: Any) -> Any:
    """Kyutai's own `LMModel` of the same shape, freshly initialised; `options` are its device and dtype."""
    from moshi.models.lm import LMModel

    return LMModel(**lm_kwargs(config), **options)
