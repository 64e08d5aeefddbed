"""Quantization at loading (`quantization_config=`), which leaves TTT layers as they are.

A memory is learned in float32 from queries, keys, values and gates that must not be rounded, and quantized weights have
no gradients, so `lora+ttt` would train nothing of the layers that are new.
"""

import copy
from typing import Any

from transformers.quantizers import AutoQuantizationConfig

from ..configuration_moshi_ttt import MoshiTTTConfig

_SPARED = ("modules_to_not_convert", "llm_int8_skip_modules")  # most configurations; that of bitsandbytes


def sparing_memories(quantization_config: Any, config: MoshiTTTConfig) -> Any:
    """A copy of a configuration of transformers, or of its dictionary, that also spares the model's TTT layers.

    Raises:
        ValueError: a kind of quantization that cannot spare modules.
    """
    if isinstance(quantization_config, dict):
        quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
    spared = copy.deepcopy(quantization_config)
    key = next((name for name in _SPARED if hasattr(spared, name)), None)
    if key is None:
        raise ValueError(
            f"{type(spared).__name__} cannot spare modules, and TTT layers must not be quantized. Use one that has "
            f"{' or '.join(_SPARED)}, such as TorchAoConfig or BitsAndBytesConfig."
        )
    memories = [f"model.layers.{index}.ttt" for index in config.ttt_layer_indices]
    setattr(spared, key, [*(getattr(spared, key) or []), *memories])
    return spared
