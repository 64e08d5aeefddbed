"""transformers' Mimi as the module of Kyutai's package, which decodes in a stream where transformers' own cannot.

The weights are the same ones, not copies, but for those of queries, keys and values: Kyutai stores the three in one
matrix, and pairs neighbouring channels in its rotary positions where transformers pairs the halves of a head.
"""

import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import MimiConfig, MimiModel
from transformers.models.mimi.modeling_mimi import MimiConvTranspose1d

_FIXED = {
    "use_causal_conv": True, "use_conv_shortcut": False, "trim_right_ratio": 1.0, "pad_mode": "constant",
    "hidden_act": "gelu", "attention_bias": False, "audio_channels": 1, "norm_eps": 1e-5, "num_semantic_quantizers": 1,
}  # fmt: skip
# A name of transformers as Kyutai's, in this order.
_NAMES = (
    (r"^(encoder|decoder)\.\1_seanet\.layers\.", r"\1.model."),
    (r"^(encoder|decoder)\.\1_transformer\.", r"\1_transformer.transformer."),
    (r"^encoder\.downsample\.", "downsample.conv."),
    (r"^decoder\.upsample\.", "upsample.convtr."),
    (r"^quantizer\.semantic_residual_vector_quantizer\.", "quantizer.rvq_first."),
    (r"^quantizer\.acoustic_residual_vector_quantizer\.", "quantizer.rvq_rest."),
    (r"(rvq_\w+)\.layers\.(\d+)\.codebook\.", r"\1.vq.layers.\2._codebook."),
    (r"\.initialized$", "._initialized"),
    (r"\.embed_sum$", ".embedding_sum"),
    (r"\.o_proj\.", ".out_projs.0."),
    (r"\.input_layernorm\.", ".norm1."),
    (r"\.post_attention_layernorm\.", ".norm2."),
    (r"\.mlp\.fc(\d)\.", r".linear\1."),
    (r"\.self_attn_layer_scale\.", ".layer_scale_1."),
    (r"\.mlp_layer_scale\.", ".layer_scale_2."),
)


def kyutai_mimi(mimi: MimiModel) -> Any:
    """Kyutai's `MimiModel` with the weights of transformers', in evaluation mode on the same device.

    Raises:
        ImportError: Kyutai's package is not installed.
        ValueError: a configuration that Kyutai's package has not.
    """
    try:
        from moshi.models.loaders import get_mimi
    except ImportError as error:
        raise ImportError("Kyutai's package is missing: pip install --no-deps moshi==0.2.13") from error
    with torch.device("meta"):
        theirs = get_mimi(None, mimi_config(mimi.config), "meta", mimi.config.num_quantizers)
    theirs.load_state_dict(kyutai_weights(mimi), assign=True)
    return theirs.eval().requires_grad_(False)


@contextmanager
def without_compiling() -> Iterator[None]:
    """Kyutai's modules as they are written; they compile some functions when first called otherwise."""
    from moshi.utils.compile import no_compile

    with no_compile():
        yield


def mimi_config(config: MimiConfig) -> dict[str, Any]:
    """The configuration as Kyutai's `get_mimi` takes it.

    Raises:
        ValueError: a value that Kyutai's package has not.
    """
    _require_supported(config)
    rope: Any = config.rope_parameters
    sizes = {"dimension": config.hidden_size, "n_filters": config.num_filters, "ratios": config.upsampling_ratios}
    kernels = {name: getattr(config, name) for name in ("kernel_size", "residual_kernel_size", "last_kernel_size")}
    seanet = {
        **sizes, **kernels, "channels": 1, "causal": True, "n_residual_layers": config.num_residual_layers,
        "activation": "ELU", "compress": config.compress, "dilation_base": config.dilation_growth_rate,
        "disable_norm_outer_blocks": 0, "norm": "none", "pad_mode": "constant", "true_skip": True,
    }  # fmt: skip
    quantizer = {
        "dimension": config.codebook_dim, "n_q": config.num_quantizers, "bins": config.codebook_size,
        "input_dimension": config.hidden_size, "output_dimension": config.hidden_size,
    }  # fmt: skip
    transformer = {
        "d_model": config.hidden_size, "num_heads": config.num_attention_heads, "num_layers": config.num_hidden_layers,
        "causal": True, "layer_scale": config.layer_scale_initial_scale, "context": config.sliding_window,
        "conv_layout": True, "max_period": rope["rope_theta"], "gating": "none",
        "norm": "layer_norm", "positional_embedding": "rope", "dim_feedforward": config.intermediate_size,
        "input_dimension": config.hidden_size, "output_dimensions": [config.hidden_size],
    }  # fmt: skip
    rates = {"sample_rate": config.sampling_rate, "channels": 1, "frame_rate": config.frame_rate}
    return {**rates, "seanet": seanet, "quantizer": quantizer, "transformer": transformer}


def _require_supported(config: MimiConfig) -> None:
    derived = {
        "head_dim": config.hidden_size // config.num_attention_heads,
        "num_key_value_heads": config.num_attention_heads,
        "upsample_groups": config.hidden_size,
        "vector_quantization_hidden_dimension": config.codebook_dim,
    }
    for name, value in {**_FIXED, **derived}.items():
        if getattr(config, name) != value:
            raise ValueError(f"{name}={getattr(config, name)!r}, but Kyutai's Mimi has {value!r}.")


def kyutai_weights(mimi: MimiModel) -> dict[str, Tensor]:
    """The weights by Kyutai's names."""
    own, heads = mimi.state_dict(), mimi.config.num_attention_heads
    transposed = {name for name, module in mimi.named_modules() if isinstance(module, MimiConvTranspose1d)}
    weights = {}
    for name, tensor in own.items():
        if name.endswith(".self_attn.q_proj.weight"):
            q, k, v = (own[name.replace("q_proj", f"{part}_proj")] for part in "qkv")
            joined = torch.cat([_neighbours_paired(q, heads), _neighbours_paired(k, heads), v])
            weights[_kyutai_name(name.replace("q_proj", "in_projs.0"), transposed)] = joined
        elif not name.endswith((".self_attn.k_proj.weight", ".self_attn.v_proj.weight")):
            weights[_kyutai_name(name, transposed)] = tensor
    return weights


def _kyutai_name(name: str, transposed: Container[str]) -> str:
    """Kyutai wraps each convolution twice."""
    module, is_convolution, parameter = name.rpartition(".conv.")
    if is_convolution:
        kind = "convtr" if module in transposed else "conv"
        name = f"{module}.{kind}.{kind}.{parameter}"
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _neighbours_paired(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of each head that transformers pairs across its halves, as neighbours."""
    by_half = weight.unflatten(0, (num_heads, 2, -1))
    return by_half.transpose(1, 2).flatten(0, 2)
