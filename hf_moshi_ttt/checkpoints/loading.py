"""`from_pretrained` for every layout of `repository.py`: strict about names, shapes and files, with one copy in memory.

The weights are handed to transformers' own `from_pretrained` as lazy tensors, so `dtype`, `device_map` and quantization
are transformers'. Before anything is read, every name and shape is compared with the model's: only the weights of TTT
layers that are added to a checkpoint may be missing. They start with a zero output, so the model is Moshi at step 0.
"""

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME, logging

from ..configuration_moshi_ttt import MoshiTTTConfig, TTTConfig
from .config_changes import Changes, config_changes, describe_changes
from .lazy_weights import open_weights
from .offloading import claim_folder, require_free_folder
from .quantization import sparing_memories
from .repository import BASE_KEY, HUB_OPTIONS, Checkpoint, Origin, Repository, is_ttt_weight, open_checkpoint
from .weight_files import ADAPTER_CONFIG_NAME, ADAPTER_WEIGHTS_NAME, require_one_layout

logger = logging.get_logger(__name__)

_UNSUPPORTED = ("variant", "gguf_file", "key_mapping", "from_tf", "from_flax")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_AS_SAVED: Any = object()


class MoshiTTTLoadingMixin:
    """Loading for `MoshiTTTForConditionalGeneration`; `origin` is the base that `trainable_only` saving names, and
    `has_new_ttt` says that it has no TTT layers."""

    origin: Origin | None = None
    has_new_ttt = False

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
        """A model from a folder or a name on the Hub: any of the layouts of `repository.py`, or an adapter of `peft`.

        Args:
            config: a whole configuration in place of the saved one; its differences are checked in the same way.
            ttt_config: the TTT section, or its keys that change; None is plain Moshi. Without it, TTT is as saved.
            base_model_name_or_path: the model that an adapter, LoRA weights of moshi-finetune or a trained part belong
                to, where the repository does not name it.
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
            if ttt_config is not _AS_SAVED or base_model_name_or_path is not None:
                raise ValueError("ttt_config and base_model_name_or_path belong to a checkpoint, but none is named.")
            return super().from_pretrained(  # type: ignore[misc]
                None, *model_args, config=config, output_loading_info=output_loading_info, **kwargs
            )
        _refuse_unsupported(kwargs)
        hub = {key: kwargs[key] for key in HUB_OPTIONS if key in kwargs}
        repository = Repository(str(pretrained_model_name_or_path), hub)
        adapter = _adapter_of(repository, kwargs.pop("adapter_kwargs", None))
        if ttt_config is not _AS_SAVED:
            kwargs["ttt_config"] = ttt_config
        if adapter is None:
            model, info = cls._from_repository(repository, config, base_model_name_or_path, kwargs, model_args)
        else:
            model, info = cls._from_adapter(adapter, config, base_model_name_or_path, kwargs, model_args)
        _report(repository.name, info)
        return (model, info) if output_loading_info else model

    @classmethod
    def _from_repository(
        cls, repository: Repository, config: Any, base: str | None, options: dict[str, Any], model_args: tuple[Any, ...]
    ) -> tuple[Any, dict[str, Any]]:
        require_free_folder(options.get("offload_folder"))
        name, checkpoint = repository.name, open_checkpoint(repository, base)
        asked = _asked_config(checkpoint.config, config, options)
        changes = config_changes(checkpoint.config, asked, name)
        if options.get("quantization_config") is not None:
            options["quantization_config"] = sparing_memories(options["quantization_config"], asked)
        with torch.device("meta"):
            skeleton: Any = cls(asked)  # type: ignore[call-arg]
        new_keys = require_weights(_shapes(skeleton), checkpoint, name, options.get("ignore_mismatched_sizes", False))
        options["dtype"] = dtype = _dtype(options.pop("dtype", options.pop("torch_dtype", None)), asked, checkpoint)
        # In the dtype that transformers will ask for, so that each weight is copied once.
        exact = cls._keep_in_fp32_modules_strict  # type: ignore[attr-defined]
        weights = {
            key: lazy.astype(torch.promote_types(dtype, torch.float32) if exact & set(key.split(".")) else dtype)
            for key, lazy in checkpoint.weights.items()
        }
        model, info = super().from_pretrained(  # type: ignore[misc]
            None, *model_args, config=asked, state_dict=weights, output_loading_info=True, **options
        )
        if dtype == torch.float64:
            model.double()  # the parameters of learners were made in float32
        model.config.name_or_path = model.name_or_path = name
        model.origin, model.has_new_ttt = checkpoint.origin, bool(new_keys)
        if checkpoint.layout in ("moshi_ttt", "trained part"):
            _read_generation_config(model, repository)
        claim_folder(options.get("offload_folder"), model)
        _apply(model, changes)
        info.update(layout=checkpoint.layout, new_keys=new_keys, config_changes=changes)
        return model, info

    @classmethod
    def _from_adapter(
        cls, adapter: Repository, config: Any, base: str | None, options: dict[str, Any], model_args: tuple[Any, ...]
    ) -> tuple[Any, dict[str, Any]]:
        """The base that an adapter of `peft` names, with the adapter in it."""
        described = adapter.read_json(ADAPTER_CONFIG_NAME) or {}
        base = base or described.get("base_model_name_or_path")
        if not base:
            raise ValueError(f"{adapter.name}: the adapter names no base model. Give {BASE_KEY}.")
        weights = adapter.file(ADAPTER_WEIGHTS_NAME)
        if weights is None:
            raise ValueError(f"{adapter.name}: no {ADAPTER_WEIGHTS_NAME}. Pickled adapters are not loaded.")
        open_weights([weights])  # refuses a damaged file
        raw = adapter.read_json("config.json") or {}
        if raw.get("model_type") == MoshiTTTConfig.model_type:
            config = MoshiTTTConfig.from_dict(raw)
        try:
            owner = adapter.other(base)
        except ValueError as error:
            raise ValueError(f"{adapter.name}: its base model cannot be opened: {error} Give {BASE_KEY}.") from error
        options = {key: value for key, value in options.items() if key not in HUB_OPTIONS} | dict(owner.hub)
        model, info = cls._from_repository(owner, config, None, options, model_args)
        holds_ttt = "ttt" in (described.get("modules_to_save") or [])
        if holds_ttt and model.config.ttt is None:
            raise ValueError(
                f"{adapter.name}: the adapter holds TTT layers, but its base {base!r} has none. Give ttt_config, or "
                "put the model's config.json beside the adapter (adapters.save_adapter does)."
            )
        loaded = model.load_adapter(str(weights.parent))
        if loaded.missing_keys or loaded.unexpected_keys:
            differing = sorted({*loaded.missing_keys, *loaded.unexpected_keys})
            raise ValueError(
                f"{adapter.name}: the adapter and its base {base!r} do not fit: {_some(differing)}. Kinds of "
                "adapters that transformers does not load, such as DoRA, are loaded by peft: "
                "PeftModel.from_pretrained(BASE, ADAPTER)."
            )
        _read_generation_config(model, adapter)
        new_keys = [] if holds_ttt else info["new_keys"]
        info.update(layout="adapter", missing_keys=set(new_keys), new_keys=new_keys)
        return model, info


def _adapter_of(repository: Repository, given: dict[str, Any] | None) -> Repository | None:
    """The repository of an adapter: this one, or the one that transformers' `AutoModel` found before."""
    if path := (given or {}).get("_adapter_model_path"):
        return Repository(str(path), repository.hub)
    require_one_layout(repository.name)
    return None if repository.file(ADAPTER_CONFIG_NAME) is None else repository


def _read_generation_config(model: Any, repository: Repository) -> None:
    """How the model chooses its codes, where the repository says so; transformers' own Moshi says it otherwise."""
    if (saved := repository.read_json(GENERATION_CONFIG_NAME)) is not None:
        model.generation_config = GenerationConfig.from_dict(saved)


def _refuse_unsupported(kwargs: dict[str, Any]) -> None:
    for key in _UNSUPPORTED:
        if kwargs.pop(key, None):
            raise ValueError(f"{key} is not supported: TTT-Moshi is loaded from safetensors files of known layouts.")
    if kwargs.pop("use_safetensors", None) is False:
        raise ValueError("use_safetensors=False, but TTT-Moshi is loaded from safetensors files only.")


def _asked_config(saved: MoshiTTTConfig, given: Any, options: dict[str, Any]) -> MoshiTTTConfig:
    """The configuration that is asked for: the given one or the saved one, with the changes in `options`."""
    overrides = {key: options.pop(key) for key in list(options) if key in MoshiTTTConfig.own_keys()}
    if given is not None and not isinstance(given, PreTrainedConfig):
        given = MoshiTTTConfig.from_pretrained(given)
    if "ttt_config" in options:
        if "ttt" in overrides:
            raise ValueError("ttt and ttt_config are the same section: give one of them.")
        overrides["ttt"] = options.pop("ttt_config")
    if isinstance(overrides.get("ttt"), TTTConfig):
        overrides = {**overrides, "ttt": overrides["ttt"].own_values()}
    return MoshiTTTConfig.from_dict((saved if given is None else given).to_dict(), **overrides)


def refuse_lost_memories(model: Any, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """A hook before `load_state_dict`: refuses TTT weights for layers without TTT, which `strict=False` would drop.

    Raises:
        ValueError: the state holds some. peft's `PeftModel.from_pretrained` loads an adapter so.
    """
    layers = tuple(f"model.layers.{index}." for index in model.config.ttt_layer_indices)
    names = (name.removeprefix(prefix) for name in state_dict)
    if lost := [name for name in names if is_ttt_weight(name) and not name.startswith(layers)]:
        raise ValueError(
            f"{len(lost)} weights of TTT layers have no place in the model ({lost[0]}). Load its base with the same "
            "TTT layers (ttt_config), or an adapter with its base at once: "
            "MoshiTTTForConditionalGeneration.from_pretrained(ADAPTER)."
        )


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


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _dtype(asked: Any, config: MoshiTTTConfig, checkpoint: Checkpoint) -> torch.dtype:
    """The dtype that is asked for; without one or with "auto", that of the configuration or else of the weights.

    Raises:
        ValueError: none of `_DTYPES`.
    """
    if asked in (None, "auto"):
        # The weights of TTT layers say nothing: parts of them stay in float32.
        stored = (tensor.dtype for name, tensor in checkpoint.weights.items() if not is_ttt_weight(name))
        asked = config.dtype or next(stored)
    found = getattr(torch, asked, None) if isinstance(asked, str) else asked
    if found not in _DTYPES:
        raise ValueError(
            f'dtype={asked!r}, but it must be a torch dtype such as torch.bfloat16, its name, or "auto": float32, '
            "bfloat16, float16 or float64."
        )
    return found


@torch.no_grad()
def _apply(model: Any, changes: Changes) -> None:
    if "ttt.initial_gating_alpha" in changes:
        for layer in model.model.layers:
            if layer.has_ttt:
                layer.ttt_gate.weight.fill_(float(model.config.ttt.initial_gating_alpha))


def _report(name: str, info: dict[str, Any]) -> None:
    for line in describe_changes(info["config_changes"]):
        logger.warning(f"{name}: {line}.")
    if info["new_keys"]:
        logger.warning(
            f"{name}: {len(info['new_keys'])} weights of TTT layers are new. "
            "Their output is zero until they are trained, so the model equals Moshi."
        )
