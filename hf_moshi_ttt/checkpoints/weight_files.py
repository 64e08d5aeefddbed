"""Which files hold weights, so that a folder never holds those of two saves and it is never guessed which counts."""

import json
from collections.abc import Iterable
from pathlib import Path

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
TRAINED_PART_NAME = "trained_part.safetensors"
ADAPTER_CONFIG_NAME = "adapter_config.json"
ADAPTER_WEIGHTS_NAME = "adapter_model.safetensors"
LORA_NAME = "lora.safetensors"  # of moshi-finetune, over whole weights in the same folder or elsewhere

_NAMES = {
    "whole weights": (WEIGHTS_NAME, INDEX_NAME),
    "a trained part": (TRAINED_PART_NAME,),
    "an adapter": (ADAPTER_CONFIG_NAME,),
}
PATTERNS = (
    WEIGHTS_NAME, INDEX_NAME, "model-?????-of-?????.safetensors", TRAINED_PART_NAME, ADAPTER_CONFIG_NAME,
    ADAPTER_WEIGHTS_NAME, LORA_NAME,
)  # fmt: skip
"""Every file of weights that a save writes or outdates, as `fnmatch` patterns."""


def remove_stale_weights(folder: str | Path, written: Iterable[str]) -> None:
    """Removes the weights of earlier saves of any layout.

    Args:
        written: names of the files that the last save has written; they stay.
    """
    kept = set(written)
    for pattern in PATTERNS:
        for path in Path(folder).glob(pattern):
            if path.name not in kept:
                path.unlink()


def whole_weights(folder: str | Path) -> set[str]:
    """The files of whole weights that a save has just written into a folder, from which an older index was removed."""
    index = Path(folder, INDEX_NAME)
    if not index.is_file():
        return {WEIGHTS_NAME}
    return {INDEX_NAME, *json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}


def require_one_layout(folder: str | Path) -> None:
    """Refuses a folder with the weights of two saves.

    Raises:
        ValueError: with the files of each.
    """
    found = {}
    for layout, names in _NAMES.items():
        if present := [name for name in names if Path(folder, name).is_file()]:
            found[layout] = ", ".join(present)
    if len(found) > 1:
        both = " and ".join(f"{layout} ({names})" for layout, names in found.items())
        raise ValueError(
            f"{folder}: holds {both}, and nothing says which was saved last. Remove those that are outdated, or move "
            "an adapter or trained part into a folder of its own."
        )


def require_other_folder(folder: str | Path, base: str | None) -> None:
    """Refuses to save what belongs to a base into the base's own folder, whose weights would be outdated by it.

    Raises:
        ValueError: it is the same folder.
    """
    if base is not None and Path(base).is_dir() and Path(folder).resolve() == Path(base).resolve():
        raise ValueError(f"{folder}: holds the base model, which what is saved there needs. Give another folder.")
