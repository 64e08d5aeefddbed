"""What a live stream remembers, as a safetensors file: the whole stream, or its memory alone.

Beside the tensors a file holds a manifest (JSON in its metadata) that says which model and codec it belongs to, how
much it has heard, and what its memory is like. Files are refused before anything is allocated for them: by size, names,
shapes and types, model and codec; then by a hash of their values, and by values that no stream has.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..codec.audio import sec_from_frames
from ..codec.stream_rows import USER_STREAMS
from ..special_ids import FREE_ID
from ..whole_files import replacing
from .memory_stats import learned_tensors, norm_of

FORMAT = "moshi_ttt_live_v1"
MEMORY_PREFIX = "state.memory."
_MOST_MANIFEST_BYTES = 1 << 20
_MOST_FRAMES = 1 << 40
_MOST_GENERATOR_BYTES = 1 << 13


@dataclass(frozen=True)
class Manifest:
    """What a file says of itself.

    Args:
        kind: "session" for a whole stream, "memory" for what it has learned alone.
        model_exact, model_portable: the hashes of the model (`fingerprint.py`).
        codec_sha256: the hash of the codec.
        memory_frames: frames that the memory has heard.
        layers: `layer`, `norm`, `num_bytes` and `write_strength` (None where it is not known) of each memory.
        content_sha256: the hash of all else in the manifest and of all tensors.
        seed, generator_device, generator: of a whole stream: the seed of its draws, the kind of device they are made
            on, and their state in hex.
        memory_on, sampling, text_bytes: likewise, whether its memory answers, how codes are drawn, and the bytes of
            an unfinished character in hex.
        user_stream: likewise, the user's codes in steps without sound; None where it is not known, and not in the file.
    """

    kind: str
    model_exact: str
    model_portable: str
    codec_sha256: str
    memory_frames: int
    layers: list[dict[str, Any]]
    content_sha256: str = ""
    seed: int = 0
    generator_device: str = "cpu"
    generator: str = ""
    memory_on: bool = True
    sampling: dict[str, Any] | None = None
    text_bytes: str = ""
    user_stream: str | None = None

    def values(self) -> dict[str, Any]:
        """As they are in the file."""
        return {name: value for name, value in asdict(self).items() if name != "user_stream" or value is not None}


def write_memory_file(path: str | Path, tensors: Mapping[str, Tensor], manifest: Manifest) -> None:
    """Writes a file as a whole: a reader finds the old one or the new one."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    values = {**manifest.values(), "content_sha256": _sha256(manifest, stored)}
    with replacing(path) as beside:
        save_file(stored, beside, metadata={"format": FORMAT, "manifest": json.dumps(values)})


def read_manifest(path: str | Path) -> Manifest:
    """What a file says of itself; its tensors are not read.

    Raises:
        ValueError: no such file, a damaged one, or one of another kind.
    """
    with _opened(path) as file:
        return _manifest(path, file)


def read_memory_file(
    path: str | Path, expected: Mapping[str, Tensor], manifest: Manifest, highest_codes_K: Tensor
) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, in the dtypes of those expected.

    Args:
        expected: names, shapes and dtypes, such as tensors on `"meta"`. Memories may be stored in another dtype.
        manifest: what `read_manifest` found.
        highest_codes_K: the highest id of each stream, `[K]`.

    Raises:
        ValueError: a file that is too large, has other tensors than these, is damaged, or holds values that no stream
            has.
    """
    most_bytes = 2 * sum(tensor.nbytes for tensor in expected.values()) + _MOST_MANIFEST_BYTES
    if (num_bytes := Path(path).stat().st_size) > most_bytes:
        raise ValueError(f"{path}: {num_bytes} bytes, but such a file of this model has at most {most_bytes}.")
    with _opened(path) as file:
        _require_layout(path, file, expected)
        tensors = {name: file.get_tensor(name) for name in expected}
    _require_content(path, manifest, tensors)
    for name, tensor in tensors.items():
        _require_possible(path, name, tensor, highest_codes_K)
    return {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}


def inspect(path: str | Path) -> dict[str, Any]:
    """What a file holds, from its header: `kind`, `age_sec`, `num_bytes`, `layers` and the hashes.

    Raises:
        ValueError: no such file, a damaged one, or one of another kind.
    """
    manifest = read_manifest(path)
    hashes = {name: getattr(manifest, name) for name in ("model_exact", "model_portable", "codec_sha256")}
    age_sec = sec_from_frames(manifest.memory_frames)
    size = {"age_sec": age_sec, "num_bytes": Path(path).stat().st_size}
    return {"kind": manifest.kind, **size, "layers": manifest.layers, **hashes}


def diff(path: str | Path, other_path: str | Path) -> list[dict[str, Any]]:
    """How far apart the memories of two files are, by layer.

    Keys: `layer`; `norm` and `other_norm` of what was learned; `distance`, the norm of the difference; `cosine` between
    them, NaN where one is zero.

    Raises:
        ValueError: files that are missing or damaged, or memories of different models.
    """
    manifests = [read_manifest(given) for given in (path, other_path)]
    if manifests[0].model_portable != manifests[1].model_portable:
        raise ValueError(f"{path} and {other_path} are memories of different models: there is nothing to compare.")
    own, other = map(_learned_by_layer, (path, other_path), manifests)
    if [_shapes(layer) for layer in own] != [_shapes(layer) for layer in other] or len(own) != len(manifests[0].layers):
        raise ValueError(f"{path} and {other_path} hold other tensors than their manifests say. Take other copies.")
    return [
        {"layer": layer["layer"], **_distance(own[index], other[index])}
        for index, layer in enumerate(manifests[0].layers)
    ]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _distance(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, float]:
    norm, other_norm = norm_of(own), norm_of(other)
    product = sum(float((own[name].double() * other[name].double()).sum()) for name in own)
    return {
        "norm": norm,
        "other_norm": other_norm,
        "distance": norm_of({name: own[name].double() - other[name].double() for name in own}),
        "cosine": product / (norm * other_norm) if norm and other_norm else float("nan"),
    }


def _learned_by_layer(path: str | Path, manifest: Manifest) -> list[dict[str, Tensor]]:
    layers: dict[int, dict[str, Tensor]] = {}
    with _opened(path) as file:
        names = file.keys()
        _require_content(path, manifest, {name: file.get_tensor(name) for name in names})
        for name in sorted(names):
            if name.startswith(MEMORY_PREFIX):
                index, rest = name.removeprefix(MEMORY_PREFIX).split(".", 1)
                layers.setdefault(int(index), {}).update(learned_tensors({rest: file.get_tensor(name)}))
    return [layers[index] for index in sorted(layers)]


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The file's header and its tensors, one at a time.

    Raises:
        ValueError: no such file, or no whole safetensors file.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file. `session.save(path)` writes one.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or not a memory file ({error}). Take another copy.") from error


def _manifest(path: str | Path, file: Any) -> Manifest:
    metadata = file.metadata() or {}
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"{path}: format {metadata.get('format')!r}, but the memory of a live stream is {FORMAT!r}, as "
            "MoshiTTTSession.save writes it. What state.save wrote, model.init_state(rows).load(...) reads."
        )
    try:
        values = json.loads(metadata.get("manifest", ""))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: its manifest is no JSON ({error}). Take another copy.") from error
    kinds = {field.name: field.type for field in fields(Manifest)}
    if not isinstance(values, dict) or {*values, "user_stream"} != set(kinds):
        raise ValueError(f"{path}: its manifest must have exactly the keys {', '.join(kinds)}.")
    manifest = Manifest(**values)
    _require_manifest(path, manifest)
    return manifest


def _require_manifest(path: str | Path, manifest: Manifest) -> None:
    sensible = {
        "kind": manifest.kind in ("session", "memory"),
        "memory_frames": _is_count(manifest.memory_frames),
        "seed": _is_count(manifest.seed, 1 << 63),
        "memory_on": isinstance(manifest.memory_on, bool),
        "generator": _is_hex(manifest.generator, _MOST_GENERATOR_BYTES),
        "text_bytes": _is_hex(manifest.text_bytes, 4),
        "layers": isinstance(manifest.layers, list) and all(_is_layer(layer) for layer in manifest.layers),
        "sampling": manifest.sampling is None or isinstance(manifest.sampling, dict),
        "user_stream": manifest.user_stream in (None, *USER_STREAMS),
    }
    for name, holds in sensible.items():
        if not holds:
            raise ValueError(f"{path}: its manifest has {name}={str(getattr(manifest, name))[:80]}, which none can be.")


def _is_layer(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"layer", "norm", "num_bytes", "write_strength", "age_sec"}:
        return False
    return all(isinstance(number, (int, float)) for name, number in value.items() if name != "write_strength") and (
        isinstance(value["write_strength"], float | None)
    )


def _is_hex(value: Any, most_bytes: int) -> bool:
    return isinstance(value, str) and len(value) <= 2 * most_bytes and bool(re.fullmatch("([0-9a-f]{2})*", value))


def _is_count(value: Any, below: int = _MOST_FRAMES) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < below


def _require_layout(path: str | Path, file: Any, expected: Mapping[str, Tensor]) -> None:
    found = set(file.keys())
    if found != set(expected):
        name = min(found ^ set(expected))
        raise ValueError(
            f"{path}: {'has' if name in found else 'lacks'} the tensor {name}, "
            f"which this model {'has not' if name in found else 'needs'}."
        )
    for name, tensor in expected.items():
        part = file.get_slice(name)
        if list(part.get_shape()) != list(tensor.shape):
            raise ValueError(f"{path}: {name} is {part.get_shape()}, but {list(tensor.shape)} in this model.")
        allowed = _stored_dtypes(name, tensor)
        if part.get_dtype() not in allowed:
            raise ValueError(f"{path}: {name} is {part.get_dtype()}, but it must be {' or '.join(allowed)}.")


def _stored_dtypes(name: str, tensor: Tensor) -> list[str]:
    """The dtypes, in safetensors' words, that a tensor may be stored in."""
    own = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}
    whole = {torch.int64: "I64", torch.bool: "BOOL"}
    learned = name.startswith(MEMORY_PREFIX) and tensor.dtype.is_floating_point
    return ["F32", "F64"] if learned else [{**own, **whole}[tensor.dtype]]


def _require_possible(path: str | Path, name: str, tensor: Tensor, highest_codes_K: Tensor) -> None:
    """Finite numbers, codes that exist, and counts that are none below 0."""
    if tensor.dtype.is_floating_point:
        possible = bool(tensor.isfinite().all())
    elif name in ("state.history", "state.initial"):
        highest = highest_codes_K.cpu().view(1, -1, *[1] * (tensor.dim() - 2))
        possible = bool(((tensor >= FREE_ID) & (tensor <= highest)).all())
    else:
        possible = tensor.dtype != torch.int64 or bool(((tensor >= 0) & (tensor < _MOST_FRAMES)).all())
    if not possible:
        raise ValueError(f"{path}: {name} holds values that no stream has. Take another copy.")


def _require_content(path: str | Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    if _sha256(manifest, tensors) != manifest.content_sha256:
        raise ValueError(f"{path}: damaged, its content does not have the hash in its manifest. Take another copy.")


def _sha256(manifest: Manifest, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps({**manifest.values(), "content_sha256": ""}, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
