"""Models whose weights accelerate keeps in memory or on disk until a module is called (`device_map`, `cpu_offload`).

They answer, stream and are evaluated like loaded ones; transformers saves them whole. What reads or trains the weights
themselves needs them in place, and a folder of offloaded weights belongs to one model: accelerate writes the weights of
a second one over those of the first without a word.
"""

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

_owners: WeakValueDictionary[Path, nn.Module] = WeakValueDictionary()


def require_weights_in_place(model: Any, what: str) -> None:
    """Refuses a model of which some weights are offloaded.

    Args:
        what: the use that needs them, for the message.

    Raises:
        ValueError: some are.
    """
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away and any(hasattr(module, "_hf_hook") for module in model.modules()):
        raise ValueError(
            f"{what} needs every weight in place, but {len(away)} are offloaded ({away[0]}). Load the model without "
            "device_map and without accelerate's offloading."
        )


def require_free_folder(folder: Any) -> None:
    """Refuses an `offload_folder` that holds the weights of a model of this process.

    Raises:
        ValueError: it does.
    """
    owner = None if folder is None else _owners.get(Path(folder).resolve())
    if owner is not None:
        raise ValueError(
            f"offload_folder={str(folder)!r} holds the weights of {owner.name_or_path}, which is in use. "
            "Give each model a folder of its own."
        )


def claim_folder(folder: Any, model: nn.Module) -> None:
    """Notes that a model's weights lie in a folder, as long as the model lives."""
    if folder is not None and "disk" in getattr(model, "hf_device_map", {}).values():
        _owners[Path(folder).resolve()] = model
