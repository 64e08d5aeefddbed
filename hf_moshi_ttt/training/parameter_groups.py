"""Trainable parameters as the optimizer's groups: base, TTT weights and gates, each at its own learning rate.

Norms, biases, gates and what sets the inner learning rates (rate projection, position offsets, retentions), the
convolutions of keys and queries and the scales and gates of the answer take no weight decay.
"""

from typing import Any

from torch import nn

from .arguments import MoshiTTTTrainingArguments

_RATES = ("rate_proj", "place_offset", "keep_logit", "log_decay_scale")
_SCALES = ("convolutions", "answer_scale", "answer_gate", "mean_scale")


def kind_of(name: str) -> str:
    """Whether a parameter belongs to a `"gate"`, to the rest of a `"ttt"` block, or to the `"base"`; LoRA is base."""
    if ".ttt_gate." in name:
        return "gate"
    return "ttt" if ".ttt." in name or ".ttt_norm." in name else "base"


def takes_weight_decay(name: str) -> bool:
    """False for norms, biases, gates, rates, convolutions and scales."""
    return not any(part in name for part in ("norm", "bias", "ttt_gate", *_RATES, *_SCALES))


def parameter_groups(model: nn.Module, args: MoshiTTTTrainingArguments) -> list[dict[str, Any]]:
    """The groups `{name, params, lr, weight_decay}`; `name` is the kind, with `_no_decay` where there is none.

    Raises:
        ValueError: nothing is trainable.
    """
    rates = {
        "base": args.learning_rate,
        "ttt": args.learning_rate * args.ttt_lr_multiplier,
        "gate": args.learning_rate * args.gate_lr_multiplier,
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind, decays = kind_of(name), takes_weight_decay(name)
        key = kind if decays else f"{kind}_no_decay"
        weight_decay = args.weight_decay if decays else 0.0
        group = groups.setdefault(key, {"name": key, "params": [], "lr": rates[kind], "weight_decay": weight_decay})
        group["params"].append(parameter)
    if not groups:
        raise ValueError("No parameter is trainable: choose another preset than trainable='frozen'.")
    return list(groups.values())


def count_parameters(model: nn.Module) -> int:
    """All parameters; where an adapter trains a copy of a module, only the copy."""
    return sum(p.numel() for name, p in model.named_parameters() if ".original_module." not in name)
