"""`from_pretrained` for every layout of `checkpoints.py`: strict about what is there, and one copy in memory.

The weights are handed to transformers' own `from_pretrained` as lazy tensors, so `dtype`, `device_map` and quantization
are transformers'. Before anything is read, every name and shape is compared with the model's: only the weights of TTT
layers that are added to a checkpoint may be missing. They start with a zero output, so the model is Moshi at step 0.
"""

from typing import Any

import torch
from transformers.utils import logging

from .checkpoints import Checkpoint, Origin, Repository, is_ttt_weight, open_checkpoint
from .config_changes import Changes, config_changes, describe_changes
from .configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from .lazy_weights import LazyTensor

logger = logging.get_logger(__name__)

_HUB_OPTIONS = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
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
        hub = {key: kwargs[key] for key in _HUB_OPTIONS if key in kwargs}
        checkpoint = open_checkpoint(Repository(name, hub), base_model_name_or_path)
        overrides = {key: kwargs.pop(key) for key in list(kwargs) if key in MoshiTTTConfig.own_keys()}
        asked = _asked_config(checkpoint.config, config, overrides, ttt_config)
        changes = config_changes(checkpoint.config, asked, name)
        new_keys = require_weights(cls, asked, checkpoint, name, kwargs.get("ignore_mismatched_sizes", False))
        if kwargs.setdefault("dtype", kwargs.pop("torch_dtype", "auto")) == "auto" and asked.dtype is None:
            kwargs["dtype"] = _first_dtype(checkpoint.weights)
        model, info = super().from_pretrained(  # type: ignore[misc]
            None, *model_args, config=asked, state_dict=checkpoint.weights, output_loading_info=True, **kwargs
        )
        model.config.name_or_path = model.name_or_path = name
        model.origin = checkpoint.origin
        _apply(model, changes)
        _report(name, new_keys, changes)
        info.update(layout=checkpoint.layout, new_keys=new_keys, config_changes=changes)
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
    if given is not None and not isinstance(given, MoshiTTTConfig):
        given = MoshiTTTConfig.from_pretrained(given)
    if ttt_config is not _AS_SAVED:
        if "ttt" in overrides:
            raise ValueError("ttt and ttt_config are the same section: give one of them.")
        overrides = {**overrides, "ttt": ttt_config}
    if isinstance(overrides.get("ttt"), TTTConfig):
        overrides = {**overrides, "ttt": overrides["ttt"].own_values()}
    return MoshiTTTConfig.from_dict((saved if given is None else given).to_dict(), **overrides)


def require_weights(
    cls: Any, asked: MoshiTTTConfig, checkpoint: Checkpoint, where: str, ignore_shapes: bool = False
) -> list[str]:
    """The weights of the model that are not in the checkpoint because they are new: those of added TTT layers.

    Raises:
        ValueError: any other weight is missing, one has no place in the model, or a shape differs.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in cls(asked).state_dict().items()}
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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _first_dtype(weights: dict[str, LazyTensor]) -> torch.dtype:
    """The dtype of the weights outside TTT, which has parts that stay in float32."""
    return next(tensor.dtype for name, tensor in weights.items() if not is_ttt_weight(name))


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
            f"{name}: the {len(new_keys)} missing weights are those of the new TTT layers. "
            "Their output is zero until they are trained, so the model equals Moshi."
        )
