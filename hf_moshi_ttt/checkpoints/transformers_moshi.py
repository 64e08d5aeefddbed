"""transformers' own layout of Moshi (`MoshiForConditionalGeneration`, as in kmhf/hf-moshiko), both ways.

It differs from ours in that queries, keys and values are apart, with rotary pairs half a head apart instead of side by
side, that a depth linear of all codebooks is one tensor `[Q, out, in]`, and that it holds the codec's weights too.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import MoshiConfig

from .lazy_weights import LazyTensor, combined, concatenated, renamed

CODEC_PREFIX = "audio_encoder."
# transformers' key -> ours, where the weight is the same; N is a number.
_NAMES = {
    "embed_tokens.N.weight": "model.embed_audio.N.weight",
    "decoder.model.embed_tokens.weight": "model.embed_text.weight",
    "decoder.model.norm.weight": "model.norm.weight",
    "decoder.lm_head.weight": "lm_head.weight",
    "decoder.model.layers.N.input_layernorm.weight": "model.layers.N.input_layernorm.weight",
    "decoder.model.layers.N.post_attention_layernorm.weight": "model.layers.N.post_attention_layernorm.weight",
    "decoder.model.layers.N.self_attn.o_proj.linear.weight": "model.layers.N.self_attn.o_proj.weight",
    "decoder.model.layers.N.mlp.fc1.weight": "model.layers.N.mlp.fc1.weight",
    "decoder.model.layers.N.mlp.fc2.weight": "model.layers.N.mlp.fc2.weight",
    "depth_decoder.text_embed_tokens.weight": "depth_decoder.embed_text.weight",
    "depth_decoder.embed_tokens.N.weight": "depth_decoder.embed_audio.N.weight",
    "depth_decoder.layers.N.input_layernorm.weight": "depth_decoder.layers.N.input_layernorm.weight",
    "depth_decoder.layers.N.post_attention_layernorm.weight": "depth_decoder.layers.N.post_attention_layernorm.weight",
}
# transformers' key of all codebooks -> ours without the codebook's number, which is put in place of Q.
_STACKED_NAMES = {
    "depth_decoder.input_projections.weight": "depth_decoder.input_projections.Q.weight",
    "depth_decoder.lm_heads.weight": "depth_decoder.lm_heads.Q.weight",
    "depth_decoder.layers.N.self_attn.o_proj.linear.weight": "depth_decoder.layers.N.o_proj.Q.weight",
    "depth_decoder.layers.N.mlp.fc1.weight": "depth_decoder.layers.N.mlp.Q.fc1.weight",
    "depth_decoder.layers.N.mlp.fc2.weight": "depth_decoder.layers.N.mlp.Q.fc2.weight",
}
_QKV_NAMES = {
    "decoder.model.layers.N.self_attn.{}_proj.linear.weight": "model.layers.N.self_attn.qkv_proj.weight",
    "depth_decoder.layers.N.self_attn.{}_proj.linear.weight": "depth_decoder.layers.N.qkv_proj.Q.weight",
}
_OURS_TO_NAMES = {ours: theirs for theirs, ours in _NAMES.items()}
# Keys of a configuration of which our model knows one value.
_FIXED = {"hidden_act": "silu", "attention_dropout": 0.0, "tie_word_embeddings": False}


def is_transformers_config(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of transformers' `MoshiForConditionalGeneration`."""
    return raw.get("model_type") == "moshi" and "depth_decoder_config" in raw


def config_from_transformers(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The plain Moshi that a config.json of transformers' Moshi describes, as keys of our configuration.

    Raises:
        ValueError: a value that our model cannot follow.
    """
    given: Any = MoshiConfig.from_dict(dict(raw))
    depth = given.depth_decoder_config
    for key, allowed in _FIXED.items():
        _require(key, getattr(given, key), getattr(given, key) == allowed, repr(allowed))
    for name, part in (("", given), ("depth_decoder_config.", depth)):
        heads = part.num_attention_heads
        for key, allowed in (("num_key_value_heads", heads), ("head_dim", part.hidden_size // heads)):
            _require(name + key, getattr(part, key), getattr(part, key) == allowed, repr(allowed))
    rope = given.rope_parameters
    _require("rope_parameters", rope, rope.get("rope_type", "default") == "default", "of rope_type 'default'")
    _require("depth_decoder_config.rms_norm_eps", depth.rms_norm_eps, depth.rms_norm_eps == given.rms_norm_eps, "equal")
    return {
        "hidden_size": given.hidden_size,
        "num_hidden_layers": given.num_hidden_layers,
        "num_attention_heads": given.num_attention_heads,
        "ffn_dim": given.ffn_dim,
        "sliding_window": given.sliding_window,
        "rope_theta": rope["rope_theta"],
        "rms_norm_eps": given.rms_norm_eps,
        "num_codebooks": given.num_codebooks,
        "codebook_size": given.audio_vocab_size,
        "text_vocab_size": given.vocab_size,
        "depth_decoder_config": {
            key: getattr(depth, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "ffn_dim")
        },
    }


def _require(key: str, value: object, condition: bool, allowed: str) -> None:
    if not condition:
        raise ValueError(f"transformers' config.json has {key}={value!r}, but it must be {allowed}.")


def from_transformers(weights: Mapping[str, LazyTensor], num_attention_heads: int) -> dict[str, LazyTensor]:
    """Our names for the weights of transformers' Moshi; the codec's weights are left out.

    Raises:
        ValueError: keys that transformers' Moshi does not have.
    """
    converted, unknown = {}, []
    qkv: dict[str, dict[str, LazyTensor]] = {}
    for key, value in weights.items():
        name, stacked = renamed(key, _NAMES), renamed(key, _STACKED_NAMES)
        match = re.fullmatch(r"(.*self_attn\.)([qkv])(_proj\.linear\.weight)", key)
        if name is not None:
            converted[name] = value
        elif stacked is not None:
            converted.update({stacked.replace("Q", str(i)): part for i, part in enumerate(_unstacked(value))})
        elif match is not None:
            qkv.setdefault(f"{match[1]}{{}}{match[3]}", {})[match[2]] = value
        elif not key.startswith(CODEC_PREFIX):
            unknown.append(key)
    if unknown:
        raise ValueError(f"{len(unknown)} weights have no place in Moshi: {', '.join(sorted(unknown)[:5])}.")
    for pattern, parts in qkv.items():
        name = renamed(pattern, _QKV_NAMES)
        if name is not None and parts.keys() == set("qkv"):
            converted.update(_joined(name, parts, num_attention_heads))
    return converted


def _unstacked(value: LazyTensor) -> list[LazyTensor]:
    return [part.reshape(*value.shape[1:]) for part in value.chunk(value.shape[0])]


def _joined(name: str, parts: dict[str, LazyTensor], num_heads: int) -> dict[str, LazyTensor]:
    if "Q" in name:
        of_codebook = zip(*(_unstacked(parts[letter]) for letter in "qkv"), strict=True)
        return {name.replace("Q", str(i)): concatenated(qkv) for i, qkv in enumerate(of_codebook)}
    turned = [
        combined([parts[letter]], lambda tensors: _pairs_side_by_side(tensors[0], num_heads), parts[letter].shape)
        for letter in "qk"
    ]
    return {name: concatenated([*turned, parts["v"]])}


def _pairs_side_by_side(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a projection to heads: rotary pairs (i, i + F / 2) -> (2 i, 2 i + 1)."""
    return weight.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _pairs_half_a_head_apart(weight: Tensor, num_heads: int) -> Tensor:
    return weight.unflatten(0, (num_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def to_transformers(weights: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """transformers' names for our weights, without the codec's.

    Raises:
        ValueError: weights that transformers' Moshi has no place for, such as TTT weights.
    """
    left, converted = dict(weights), {}
    for key in list(left):
        name = renamed(key, _OURS_TO_NAMES)
        if name is not None:
            converted[name] = left.pop(key)
    for theirs, ours in _STACKED_NAMES.items():
        for layer in _layers(theirs, config):
            parts = [left.pop(_numbered(ours, layer, i)) for i in range(config.num_codebooks)]
            converted[_numbered(theirs, layer)] = torch.stack(parts)
    for theirs, ours in _QKV_NAMES.items():
        for layer in _layers(theirs, config):
            for letter, weight in zip("qkv", _split_qkv(left, ours, layer, config), strict=True):
                converted[_numbered(theirs, layer).format(letter)] = weight.contiguous()
    if left:
        raise ValueError(f"{len(left)} weights have no place in Moshi: {', '.join(sorted(left)[:5])}.")
    return converted


def _layers(pattern: str, config: Any) -> range:
    if "N" not in pattern:
        return range(1)
    is_depth = pattern.startswith("depth_decoder.")
    return range(config.depth_decoder_config.num_hidden_layers if is_depth else config.num_hidden_layers)


def _numbered(pattern: str, layer: int, codebook: int = 0) -> str:
    return pattern.replace("N", str(layer)).replace("Q", str(codebook))


def _split_qkv(left: dict[str, Tensor], ours: str, layer: int, config: Any) -> list[Tensor]:
    if "Q" in ours:
        parts = [left.pop(_numbered(ours, layer, i)).chunk(3) for i in range(config.num_codebooks)]
        return [torch.stack(letter) for letter in zip(*parts, strict=True)]
    q, k, v = left.pop(_numbered(ours, layer)).chunk(3)
    return [*(_pairs_half_a_head_apart(weight, config.num_attention_heads) for weight in (q, k)), v]


def config_to_transformers(config: Any, codec_config: Any) -> Any:
    """transformers' `MoshiConfig` of the plain Moshi inside a `MoshiTTTConfig`.

    Args:
        codec_config: the `MimiConfig` of the codec.

    Raises:
        ValueError: a value that transformers' Moshi cannot follow.
    """
    default = [0] + 2 * ([0] + [1] * (config.num_codebooks - 1))
    if config.delays != default:
        raise ValueError(f"delays={config.delays}, but transformers' Moshi has {default}.")
    depth = config.depth_decoder_config
    return MoshiConfig(
        vocab_size=config.text_vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        audio_vocab_size=config.codebook_size,
        max_position_embeddings=config.sliding_window,
        rope_parameters={"rope_type": "default", "rope_theta": float(config.rope_theta)},
        sliding_window=config.sliding_window,
        ffn_dim=config.ffn_dim,
        rms_norm_eps=float(config.rms_norm_eps),
        num_codebooks=config.num_codebooks,
        audio_encoder_config=codec_config.to_dict(),
        depth_decoder_config={
            "hidden_size": depth.hidden_size,
            "num_hidden_layers": depth.num_hidden_layers,
            "num_attention_heads": depth.num_attention_heads,
            "ffn_dim": depth.ffn_dim,
            "rms_norm_eps": float(config.rms_norm_eps),
            "max_position_embeddings": config.num_codebooks + 1,
            "sliding_window": config.num_codebooks,
        },
    )
