"""Runs of a recall task that are kept on disk: what a run's result depends on, and the file that holds it.

A file is named by the arm, the seed and a hash of all that the result depends on. So runs with other settings, data or
code lie beside each other, and what one series has made no other one overwrites.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.results_file import made_with
from ..whole_files import write_whole
from .recall_setup import RecallSetup, Speech, arm_config
from .run_files import code_sha256

_NAMED_CHARACTERS = 12


def describe(setup: RecallSetup, arm: str, speech: Speech | None, asked: dict[str, Any]) -> dict[str, Any]:
    """All that a run's result depends on, beside its seed.

    Args:
        speech: what the task is drawn from.
        asked: further settings.
    """
    config = {key: value for key, value in arm_config(setup, arm).own_values().items() if key != "codec"}
    code = {"code_sha256": code_sha256(), "made_with": made_with(torch.device(setup.device))}
    data = {"speech_sha256": None if speech is None else speech_sha256(speech)}
    described: dict[str, Any] = json.loads(
        json.dumps({**asked, **data, **code, "size": asdict(setup.size), "config": config})
    )
    return described


def speech_sha256(speech: Speech) -> str:
    """A hash of every code that tasks are drawn from, and of what is known of it."""
    found = hashlib.sha256()
    for part in _parts(speech):
        found.update(part)
    return found.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{list(value.shape)} {value.dtype}".encode()
        yield value.contiguous().numpy().tobytes()
    elif is_dataclass(value):
        for item in fields(value):
            yield item.name.encode()
            yield from _parts(getattr(value, item.name))
    elif isinstance(value, (list, tuple)):
        yield str(len(value)).encode()
        for inner in value:
            yield from _parts(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key).encode()
            yield from _parts(inner)
    elif not callable(value):  # how frames of a form are found, follows from its name
        yield repr(value).encode()


def run_path(folder: Path, arm: str, seed: int, settings: dict[str, Any]) -> Path:
    """The file of a run."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return folder / f"{arm}-{seed}-{digest[:_NAMED_CHARACTERS]}.json"


def keep_run(path: Path, found: dict[str, Any], settings: dict[str, Any]) -> None:
    """Writes what a run found, whole or not at all."""
    write_whole(path, json.dumps({**found, "settings": settings}, indent=1, allow_nan=False) + "\n")


def kept_run(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What is in a run's file; None where there is none.

    Raises:
        ValueError: it is no such file.
    """
    if not path.is_file():
        return None
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no run in JSON ({error}). Remove it, and it is made again.") from error
    if not isinstance(found, dict) or found.get("settings") != settings:
        raise ValueError(f"{path}: no run with the settings that its name stands for. Remove it, and it is made again.")
    return found
