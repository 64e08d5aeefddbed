"""`from_pretrained` for every layout of `checkpoints.py`: strict about what is there, and one copy in memory.

The weights are handed to transformers' own `from_pretrained` as lazy tensors, so `dtype`, `device_map` and quantization
are transformers'. Before anything is read, every name and shape is compared with the model's: only the weights of TTT
layers that are added to a checkpoint may be missing. They start with a zero output, so the model is Moshi at step 0.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils import logging

from .checkpoints import HUB_OPTIONS, Checkpoint, Origin, Repository, is_ttt_weight, open_checkpoint
from .config_changes import Changes, config_changes, describe_changes
from .configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from .lazy_weights import LazyTensor

logger = logging.get_logger(__name__)

_UNSUPPORTED = ("variant", "gguf_file", "key_mapping", "from_tf", "from_flax")
_AS_SAVED: Any = object()


class MoshiTTTLoadingMixin:
    """Loading for `MoshiTTTForConditionalGeneration`; `origin` is the base that `trainable_only` saving names."""

    origin: Origin | None = None

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        config: Any = None,
        ttt_config: TTTConfig | dict[str, Any] | None = _AS_SAVED,
        base_model_name_or_path: str | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """A model from a folder or a name on the Hub, in any of the layouts of `checkpoints.py`.

        Args:
            config: a whole configuration in place of the saved one; its differences are checked in the same way.
            ttt_config: the TTT section, or its keys that change; None is plain Moshi. Without it, TTT is as saved.
            base_model_name_or_path: the model that LoRA weights of moshi-finetune or a trained part belong to, where
                the repository does not name it.
            output_loading_info: whether to return transformers' loading info too, with the `layout`, the `new_keys`
                (weights that start from scratch) and the `config_changes` (key -> saved and new value).
            kwargs: transformers' options (`dtype`, `device_map`, `revision`, ...) and keys of the configuration that
                change; see `config_changes.py`.

        Raises:
            ValueError: a checkpoint that is not complete, damaged, pickled or of another shape, or a change of the
                configuration that its weights do not allow.
            OSError: a name that cannot be reached.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(  # type: ignore[misc]
                None, *model_args, config=config, output_loading_info=output_loading_info, **kwargs
            )
        name = str(pretrained_model_name_or_path)
        _refuse_unsupported(kwargs)
        hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        checkpoint = open_checkpoint(Repository(name, hub), base_model_name_or_path)
        overrides = {key: kwargs.pop(key) for key in list(kwargs) if key in MoshiTTTConfig.own_keys()}
        asked = _asked_config(checkpoint.config, config, overrides, ttt_config)
        changes = config_changes(checkpoint.config, asked, name)
        with torch.device("meta"):
            skeleton: Any = cls(asked)  # type: ignore[call-arg]
        ignore_shapes = kwargs.get("ignore_mismatched_sizes", False)
        new_keys = require_weights(_shapes(skeleton), checkpoint, name, ignore_shapes)
        kwargs["dtype"] = dtype = _dtype(kwargs.pop("dtype", kwargs.pop("torch_dtype", None)), asked, checkpoint)
        fresh = _fresh_ttt_weights(skeleton, dtype) if new_keys else {}
        model, info = super().from_pretrained(  # type: ignore[misc]
            None, *model_args, config=asked, state_dict=checkpoint.weights | fresh, output_loading_info=True, **kwargs
        )
        model.config.name_or_path = model.name_or_path = name
        model.origin = checkpoint.origin
        _apply(model, changes)
        _report(name, new_keys, changes)
        info.update(layout=checkpoint.layout, missing_keys=set(new_keys), new_keys=new_keys, config_changes=changes)
        return (model, info) if output_loading_info else model


def _refuse_unsupported(kwargs: dict[str, Any]) -> None:
    for key in _UNSUPPORTED:
        if kwargs.pop(key, None):
            raise ValueError(f"{key} is not supported: TTT-Moshi is loaded from safetensors files of known layouts.")
    if kwargs.pop("use_safetensors", None) is False:
        raise ValueError("use_safetensors=False, but TTT-Moshi is loaded from safetensors files only.")


def _asked_config(
    saved: MoshiTTTConfig, given: Any, overrides: dict[str, Any], ttt_config: TTTConfig | dict[str, Any] | None
) -> MoshiTTTConfig:
    """The configuration that is asked for: the given one or the saved one, with its changes."""
    if given is not None and not isinstance(given, PreTrainedConfig):
        given = MoshiTTTConfig.from_pretrained(given)
    if ttt_config is not _AS_SAVED:
        if "ttt" in overrides:
            raise ValueError("ttt and ttt_config are the same section: give one of them.")
        overrides = {**overrides, "ttt": ttt_config}
    if isinstance(overrides.get("ttt"), TTTConfig):
        overrides = {**overrides, "ttt": overrides["ttt"].own_values()}
    return MoshiTTTConfig.from_dict((saved if given is None else given).to_dict(), **overrides)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def require_weights(
    expected: dict[str, tuple[int, ...]], checkpoint: Checkpoint, where: str, ignore_shapes: bool = False
) -> list[str]:
    """The weights of the model that are not in the checkpoint because they are new: those of added TTT layers.

    Args:
        expected: name -> shape of every weight of the model.

    Raises:
        ValueError: any other weight is missing, one has no place in the model, or a shape differs.
    """
    found = {name: tensor.shape for name, tensor in checkpoint.weights.items()}
    missing = sorted(expected.keys() - found.keys())
    may_be_new = checkpoint.config.ttt is None
    new = [name for name in missing if may_be_new and is_ttt_weight(name)]
    lost = [name for name in missing if name not in new]
    if lost:
        raise ValueError(
            f"{where}: {len(lost)} of {len(expected)} weights are missing: {_some(lost)}. "
            "The checkpoint is not complete."
        )
    unexpected = sorted(found.keys() - expected.keys())
    if unexpected:
        raise ValueError(f"{where}: {len(unexpected)} weights have no place in the model: {_some(unexpected)}.")
    differing = sorted(name for name in found if found[name] != expected[name])
    if differing and not ignore_shapes:
        first = differing[0]
        raise ValueError(
            f"{where}: {first} has shape {list(found[first])}, but the configuration gives {list(expected[first])} "
            f"({len(differing)} weights differ)."
        )
    return new


@torch.no_grad()
def _fresh_ttt_weights(skeleton: Any, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Initial values of the TTT layers, each layer with random numbers of its own.

    transformers would make them in the model's dtype, also those that stay in float32, and alike in every layer.

    Args:
        skeleton: the model on the meta device.
    """
    exact = skeleton._keep_in_fp32_modules_strict
    fresh = {}
    with torch.random.fork_rng():
        layers = {f"model.layers.{i}": layer for i, layer in enumerate(skeleton.model.layers) if layer.has_ttt}
        for seed, (prefix, layer) in zip(torch.randint(2**62, (len(layers),)).tolist(), layers.items(), strict=True):
            torch.manual_seed(seed)
            for part in ("ttt_norm", "ttt", "ttt_gate"):
                module = getattr(layer, part).to_empty(device="cpu")
                skeleton._init_weights(module)
                for key, weight in module.state_dict().items():
                    kept = exact & {part, *key.split(".")}
                    fresh[f"{prefix}.{part}.{key}"] = LazyTensor.of(weight if kept else weight.to(dtype))
                module.to("meta")
    return fresh


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _dtype(asked: Any, config: MoshiTTTConfig, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype that is asked for; without one or with "auto", that of the configuration or else of the weights.

    Raises:
        ValueError: no dtype.
    """
    if asked in (None, "auto"):
        # The weights of TTT layers say nothing: parts of them stay in float32.
        stored = (tensor.dtype for name, tensor in checkpoint.weights.items() if not is_ttt_weight(name))
        asked = config.dtype or next(stored)
    found = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if not isinstance(found, torch.dtype):
        raise ValueError(f'dtype={asked!r}, but it must be a torch dtype such as torch.bfloat16, its name, or "auto".')
    return found


@torch.no_grad()
def _apply(model: Any, changes: Changes) -> None:
    if "ttt.initial_gating_alpha" in changes:
        for layer in model.model.layers:
            if layer.has_ttt:
                layer.ttt_gate.weight.fill_(float(model.config.ttt.initial_gating_alpha))


def _report(name: str, new_keys: list[str], changes: Changes) -> None:
    for line in describe_changes(changes):
        logger.warning(f"{name}: {line}.")
    if new_keys:
        logger.warning(
            f"{name}: {len(new_keys)} weights of TTT layers are new. Their output is zero until they are trained, so "
            "the model equals Moshi."
        )
