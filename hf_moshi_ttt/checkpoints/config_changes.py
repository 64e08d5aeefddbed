"""What may differ between the configuration a checkpoint was saved with and the one that is asked for.

A key that is not declared here changes shapes or what the weights mean: it is refused, and so is every new key until it
is declared.
"""

from collections.abc import Mapping
from typing import Any

from ..configuration_moshi_ttt import MoshiTTTConfig

# Keys that may be changed when a checkpoint is loaded, and what the change does.
SAFE_KEYS = {
    "sliding_window": "frames that attention sees",
    "text_loss_weight": "weight in the loss",
    "text_padding_weight": "weight in the loss",
    "first_codebook_weight_multiplier": "weight in the loss",
    "codec": "name of the codec",
    "codec_sha256": "hash of the codec; without one, that of the data is taken over",
    "text_tokenizer": "name of the tokenizer",
    "text_tokenizer_sha256": "hash of the tokenizer; without one, that of the data is taken over",
    "text_stream": "the text row of audio-only recordings",
    "user_stream": "the user's rows of mono recordings",
    "ttt.base_lr": "scale of the inner learning rate",
    "ttt.initial_gating_alpha": "the gates are set to it again",
    "ttt.persistent_states": "whether training carries memory",
}

Changes = dict[str, tuple[Any, Any]]


def config_changes(saved: MoshiTTTConfig, asked: MoshiTTTConfig, where: str) -> Changes:
    """The keys in which `asked` differs from `saved`, each with both values.

    TTT layers may be added to a checkpoint without them (`ttt`: None and the layers that get one).

    Raises:
        ValueError: a difference in a key that is not in `SAFE_KEYS`, with all such keys and both values of each.
    """
    before, after = _values(saved), _values(asked)
    changes = {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }
    if saved.ttt is None and asked.ttt is not None:
        changes = {key: values for key, values in changes.items() if not key.startswith("ttt")}
        changes["ttt"] = (None, f"layers {asked.ttt_layer_indices}")
    refused = [key for key in changes if key not in SAFE_KEYS and not (key == "ttt" and saved.ttt is None)]
    if refused:
        differences = "; ".join(f"{key} is {changes[key][0]!r}, asked for {changes[key][1]!r}" for key in refused)
        raise ValueError(
            f"{where}: {differences}. These change shapes or the function that the weights were trained for. "
            f"Leave them as saved, or start from a base without them. Free to change: {', '.join(sorted(SAFE_KEYS))}."
        )
    return changes


def describe_changes(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """One line a change."""
    return [
        f"{key}: {old!r} -> {new!r} ({SAFE_KEYS.get(key, 'new, with weights that start from scratch')})"
        for key, (old, new) in changes.items()
    ]


def _values(config: MoshiTTTConfig) -> dict[str, Any]:
    """Every key with its value; the TTT layers as indices, as `"middle"` and a list may mean the same."""
    values = config.own_values()
    if config.ttt is None:
        return {**values, "ttt": None}
    return {**values, "ttt": "present", "ttt.layers": config.ttt_layer_indices}
