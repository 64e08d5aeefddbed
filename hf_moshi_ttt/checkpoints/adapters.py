"""What is trained: presets, and `peft` settings that find Moshi's linears by name.

| preset   | trained                                                                  |
| -------- | ------------------------------------------------------------------------ |
| frozen   | nothing                                                                  |
| lora     | LoRA on attention, feed-forward and depth linears                        |
| ttt      | the TTT blocks: norm, layer and gate                                     |
| lora+ttt | both; `peft` saves the TTT blocks with the adapter (`modules_to_save`)   |
| full     | everything                                                               |
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ..configuration_moshi_ttt import MoshiTTTConfig
from .offloading import require_weights_in_place
from .repository import is_ttt_weight
from .weight_files import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, remove_stale_weights, require_other_folder

PRESETS = ("frozen", "lora", "ttt", "lora+ttt", "full")
TTT_MODULES = ["ttt", "ttt_norm", "ttt_gate"]
LORA_PARTS = ("attention", "ffn", "depth", "text_head")
DEFAULT_PARTS = ("attention", "ffn", "depth")


class MatchedRank(NamedTuple):
    """A LoRA rank and how well it matches: parameters of LoRA at this rank, and those it replaces."""

    rank: int
    lora_parameters: int
    matched_parameters: int


def lora_targets(config: MoshiTTTConfig, parts: Sequence[str] = DEFAULT_PARTS) -> list[str]:
    """Names of linears for `LoraConfig(target_modules=...)`; no linear of a TTT layer is among them.

    Args:
        parts: `"attention"` and `"ffn"` of the temporal transformer, `"depth"` (all linears of the depth transformer,
            of every codebook), `"text_head"` (`peft` then saves the whole head too).

    Raises:
        ValueError: an unknown part.
    """
    unknown = sorted(set(parts) - set(LORA_PARTS))
    if unknown or not parts:
        raise ValueError(f"parts={list(parts)}, but they must be some of {', '.join(LORA_PARTS)}.")
    codebooks = range(config.num_codebooks)
    depth = [f"{name}.{i}" for name in ("qkv_proj", "o_proj", "input_projections", "lm_heads") for i in codebooks]
    names = {
        "attention": ["self_attn.qkv_proj", "self_attn.o_proj"],
        "ffn": ["mlp.fc1", "mlp.fc2"],
        "depth": [*depth, *(f"mlp.{i}.{name}" for i in codebooks for name in ("fc1", "fc2"))],
        "text_head": ["lm_head"],
    }
    return [name for part in LORA_PARTS if part in parts for name in names[part]]


def lora_config(
    config: MoshiTTTConfig, rank: int = 64, scaling: float = 2.0, parts: Sequence[str] = DEFAULT_PARTS, ttt: bool = True
) -> LoraConfig:
    """`peft` settings; rank and scaling default to moshi-finetune's.

    Args:
        scaling: the adapter's output is multiplied by it.
        ttt: whether the TTT blocks are trained and saved with the adapter, where the model has any.
    """
    return LoraConfig(
        r=rank,
        lora_alpha=scaling * rank,  # type: ignore[arg-type]  # peft divides it by the rank again
        target_modules=lora_targets(config, parts),
        modules_to_save=TTT_MODULES if ttt and config.ttt is not None else None,
    )


def adapter_settings(model: PeftModel) -> dict[str, Any]:
    """The settings of training that an adapter was made with.

    Returns:
        `trainable` (`"lora"` or `"lora+ttt"`), `lora_rank`, `lora_scaling` (what its output is multiplied by) and
        `lora_parts`, None where its linears are not those of any parts.

    Raises:
        ValueError: an adapter that is no LoRA, or whose layers differ in rank or strength.
    """
    described: Any = model.active_peft_config
    if described.peft_type != PeftType.LORA:
        raise ValueError(f"peft_type={described.peft_type!s}, but adapters that are trained further must be LoRA.")
    for key in ("rank_pattern", "alpha_pattern"):
        if getattr(described, key):
            raise ValueError(
                f"{key}={getattr(described, key)!r}, but one rank and one strength are needed for all layers. Merge "
                "the adapter into its base (merge_and_unload) and train another one over that."
            )
    return {
        "trainable": "lora+ttt" if "ttt" in (described.modules_to_save or []) else "lora",
        "lora_rank": described.r,
        "lora_scaling": described.lora_alpha / (math.sqrt(described.r) if described.use_rslora else described.r),
        "lora_parts": _lora_parts(model),
    }


def _lora_parts(model: PeftModel) -> list[str] | None:
    base: Any = model.get_base_model()
    names = {name: hasattr(module, "lora_A") for name, module in base.named_modules()}
    adapted = {name for name, has_lora in names.items() if has_lora}
    parts = []
    for part in LORA_PARTS:
        targets = tuple(f".{target}" for target in lora_targets(base.config, [part]))
        linears = {name for name in names if f".{name}".endswith(targets)}
        if linears <= adapted:
            parts.append(part)
            adapted -= linears
    return None if adapted else parts


def make_trainable(model: Any, preset: str, lora: LoraConfig | None = None) -> Any:
    """Sets what of a model is trained; with LoRA, returns it as a `PeftModel`.

    Args:
        preset: one of `PRESETS`.
        lora: other settings than `lora_config`'s for the presets with LoRA.

    Raises:
        ValueError: an unknown preset, TTT without TTT layers, settings of LoRA that are not used, or a model that has
            adapters already.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset={preset!r}, but it must be one of {', '.join(PRESETS)}.")
    if preset != "frozen":
        require_weights_in_place(model, f"training ({preset})")
    if isinstance(model, PeftModel):
        raise ValueError("The model has adapters already: merge them (merge_and_unload) or take its base.")
    if "ttt" in preset and model.config.ttt is None:
        raise ValueError(f"preset={preset!r}, but the model has no TTT layers. Load it with ttt_config.")
    if lora is not None and "lora" not in preset:
        raise ValueError(f"preset={preset!r} has no LoRA, but settings for it were given.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(preset == "full" or (preset == "ttt" and is_ttt_weight(name)))
    if "lora" not in preset:
        return model
    return get_peft_model(model, lora or lora_config(model.config, ttt="ttt" in preset))


def matched_lora_rank(model: nn.Module, parts: Sequence[str] = DEFAULT_PARTS, rank: int = 0) -> MatchedRank:
    """The rank at which LoRA has as many parameters as LoRA of `rank` and the model's TTT blocks together.

    Args:
        model: the model with TTT, before adapters; on the meta device it costs nothing.
    """
    config: Any = model.config
    targets = tuple(f".{name}" for name in lora_targets(config, parts))
    per_rank = sum(
        module.in_features + module.out_features
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and f".{name}".endswith(targets) and not is_ttt_weight(f"{name}.")
    )
    ttt = sum(parameter.numel() for name, parameter in model.named_parameters() if is_ttt_weight(name))
    matched = rank * per_rank + ttt
    found = max(1, round(matched / per_rank))
    return MatchedRank(found, found * per_rank, matched)


def without_adapters(model: Any) -> Any:
    """The model below peft's wrapper, whose layers hold the adapters; one without a wrapper as it is."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merged(model: Any) -> Any:
    """A model that `from_pretrained` loaded with an adapter, put into its weights; another one as it is.

    A `PeftModel` has `merge_and_unload` for it.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return model
    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            whole: Any = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            whole = module.modules_to_save[module.active_adapters[0]]
        else:
            continue
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, whole)
    model._hf_peft_config_loaded, model._weight_conversions = False, []  # the names of an adapter's weights
    del model.peft_config
    return model.requires_grad_(True)


def require_whole_adapter(model: PeftModel) -> None:
    """Refuses a model that its adapters and its base, as it was loaded, do not make again.

    Raises:
        ValueError: weights are trained that no adapter holds, or an adapter changes TTT layers that nothing holds.
    """
    adapters, base = set(model.peft_config), without_adapters(model)
    named = {name: p for name, p in base.named_parameters() if not name.endswith(".bias")}
    own = {name for name in named if adapters & set(name.split("."))}
    if lost := [name for name, parameter in named.items() if parameter.requires_grad and name not in own]:
        raise ValueError(
            f"{len(lost)} weights are trained, but no adapter holds them ({lost[0]}), and they would be lost: name "
            "their modules in LoraConfig(modules_to_save=...), such as adapters.TTT_MODULES, or freeze them."
        )
    described: Iterable[Any] = model.peft_config.values()
    holds_ttt = any("ttt" in (each.modules_to_save or []) for each in described)
    if base.has_new_ttt and not holds_ttt and any(map(is_ttt_weight, own)):
        raise ValueError(
            "The adapter changes TTT layers that are new: neither it nor its base holds their own weights. Take "
            "adapters.lora_targets(config) for target_modules and adapters.TTT_MODULES for modules_to_save, or save "
            "the model with its TTT layers (save_pretrained), load it, and put the adapter on that."
        )


def save_adapter(model: PeftModel, folder: str | Path) -> None:
    """`peft`'s own `save_pretrained`, and beside it the configuration, from which `from_pretrained` builds the base.

    Raises:
        ValueError: the folder is that of the base, or `require_whole_adapter`'s.
    """
    require_whole_adapter(model)
    base: Any = model.get_base_model()
    require_other_folder(folder, base.name_or_path or None)
    model.save_pretrained(str(folder))
    base.config.save_pretrained(folder)
    base.generation_config.save_pretrained(folder)
    remove_stale_weights(folder, [ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME])
