"""`results.json`: written and read only if it is what `results.schema.json` describes."""

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import torch

from ..data.text_files import read_json
from ..whole_files import write_whole

SCHEMA_PATH = Path(__file__).with_name("results.schema.json")
SCHEMA_VERSION = 2
_PACKAGES = ("hf_moshi_ttt", "torch", "transformers", "numpy", "scipy")


def made_with(device: torch.device) -> dict[str, str]:
    """Versions of the packages that took part, and the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {**{package: version(package) for package in _PACKAGES}, "device": name}


def validate(results: dict[str, Any]) -> None:
    """Raises ValueError that names the JSON path in `results` that the schema does not allow."""
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    found = results.get("schema")
    if found != SCHEMA_VERSION:
        raise ValueError(f"schema={found!r}, but this version reads {SCHEMA_VERSION}: evaluate again.")
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(results))
    if errors:  # a key that is wrong in itself is also one that the schema around it leaves over
        first = min(errors, key=lambda error: error.validator == "unevaluatedProperties")
        raise ValueError(f"results.json: {first.json_path}: {first.message[:300]}")
    _require_finite(results, "$")
    if results["model"] not in results["models"]:
        raise ValueError(f"results.json: model={results['model']!r} is not among {sorted(results['models'])}.")


def _require_finite(value: Any, place: str) -> None:
    """Refuses NaN and infinity, which JSON cannot hold."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"results.json: {place} is {value}.")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        _require_finite(inner, f"{place}.{key}")


def write_results(results: dict[str, Any], path: str | Path) -> None:
    """Writes results in one step.

    Raises:
        ValueError: they are not what the schema describes.
    """
    validate(results)
    write_whole(path, json.dumps(results, indent=1, ensure_ascii=False))


def read_results(path: str | Path) -> dict[str, Any]:
    """Reads results.

    Raises:
        ValueError: no such file, not JSON, or not what the schema describes.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no results. Make them with hf-moshi-ttt evaluate.")
    results = read_json(path)
    if not isinstance(results, dict):
        raise ValueError(f"{path}: expected an object, got {type(results).__name__}.")
    validate(results)
    return results
