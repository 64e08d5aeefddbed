"""Weights that stay on disk until they are asked for, from safetensors files that are checked before they are read.

A checkpoint is a dict of `LazyTensor`s. Converting it to other names and shapes reads nothing; transformers asks for
each tensor once, when its place in the model is ready. So there are never two copies of a model in memory.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is indexed, which transformers does as it does with safetensors' slices.

    Args:
        dtype: of the tensor that indexing gives; what `read` gives may have another.
        read: from the first and the last row (excluded) of the first axis to a tensor, maybe a view of a mapped file.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[int, int], Tensor]

    def __getitem__(self, index: object) -> Tensor:
        """The tensor itself, in memory of its own; only `[...]` is meant."""
        assert index is ..., f"a lazy tensor is read whole, with [...], not with {index!r}"
        return self.whole().to(self.dtype, copy=True)

    def whole(self) -> Tensor:
        """All rows as they are read: not to be kept."""
        return self.read(0, self.shape[0] if self.shape else 1)

    def astype(self, dtype: torch.dtype) -> "LazyTensor":
        """The same tensor in another dtype."""
        return replace(self, dtype=dtype)

    def chunk(self, count: int) -> list["LazyTensor"]:
        """`count` parts of equal size along the first axis.

        Raises:
            ValueError: the axis cannot be divided so.
        """
        rows, rest = divmod(self.shape[0], count)
        if rest:
            raise ValueError(f"A weight of shape {list(self.shape)} cannot be divided into {count} equal parts.")

        def part(start: int) -> LazyTensor:
            return LazyTensor((rows, *self.shape[1:]), self.dtype, lambda a, b: self.read(start + a, start + b))

        return [part(i * rows) for i in range(count)]

    def reshape(self, *shape: int) -> "LazyTensor":
        """The same values in another shape."""
        return combined([self], lambda tensors: tensors[0].reshape(shape), shape)

    @staticmethod
    def of(tensor: Tensor) -> "LazyTensor":
        """A tensor in memory as a lazy one."""
        return LazyTensor(tuple(tensor.shape), tensor.dtype, lambda a, b: tensor[a:b])


def combined(
    parts: Sequence[LazyTensor], function: Callable[[list[Tensor]], Tensor], shape: tuple[int, ...]
) -> LazyTensor:
    """What `function` makes of several tensors, `shape` being the result's."""
    return LazyTensor(shape, parts[0].dtype, lambda a, b: function([part.whole() for part in parts])[a:b])


def concatenated(parts: Sequence[LazyTensor]) -> LazyTensor:
    """The parts one after the other along the first axis."""
    rows = sum(part.shape[0] for part in parts)
    return combined(parts, torch.cat, (rows, *parts[0].shape[1:]))


def as_lazy(weights: Mapping[str, Tensor]) -> dict[str, LazyTensor]:
    """Tensors in memory as lazy ones."""
    return {name: LazyTensor.of(tensor) for name, tensor in weights.items()}


def renamed(name: str, table: Mapping[str, str]) -> str | None:
    """The name that `table` gives to a weight, or None if it has none.

    `N` in the table matches any number; the last number of a name may also be written out.
    """
    parts = name.split(".")
    places = [place for place, part in enumerate(parts) if part.isdigit()]
    for free in (places, places[:-1]):
        pattern = ".".join("N" if place in free else part for place, part in enumerate(parts))
        if pattern in table:
            numbers = iter([parts[place] for place in free])
            return ".".join(next(numbers) if part == "N" else part for part in table[pattern].split("."))
    return None


def open_weights(paths: Iterable[str | Path]) -> dict[str, LazyTensor]:
    """The tensors of one or several safetensors files; nothing but the headers is read.

    Raises:
        ValueError: a file that is missing, pickled, truncated, corrupted or quantized, or a tensor that occurs twice.
    """
    weights: dict[str, LazyTensor] = {}
    for path in map(Path, paths):
        found = _file_weights(path)
        twice = sorted(weights.keys() & found.keys())
        if twice:
            raise ValueError(f"{path}: {twice[0]} is in another file of the checkpoint too ({len(twice)} tensors are).")
        weights.update(found)
    return weights


def _file_weights(path: Path) -> dict[str, LazyTensor]:
    header = read_header(path)
    header.pop("__metadata__", None)
    weights = {}
    for name, entry in header.items():
        if entry["dtype"] not in _DTYPES:
            raise ValueError(
                f"{path}: {name} has dtype {entry['dtype']}, but weights must be one of {', '.join(_DTYPES)}. "
                "Quantized checkpoints cannot be loaded: take the bfloat16 one."
            )
        shape = tuple(entry["shape"])
        weights[name] = LazyTensor(shape, _DTYPES[entry["dtype"]], _reader(path, name, is_scalar=not shape))
    return weights


def _reader(path: Path, name: str, is_scalar: bool) -> Callable[[int, int], Tensor]:
    def read(start: int, stop: int) -> Tensor:
        # Opened for this tensor only: what was read of a file counts as memory while the file is mapped.
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if is_scalar else file.get_slice(name)[start:stop]

    return read


def read_header(path: Path) -> dict:
    """The header of a safetensors file: `{name: {dtype, shape, data_offsets}, "__metadata__": {...}}`.

    Raises:
        ValueError: the file is missing, pickled, truncated or corrupted.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the checkpoint is not complete. Download or copy it again.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)  # the header's length and its opening brace
        is_safetensors = start[8:] == b"{"
        if path.suffix in PICKLE_SUFFIXES or not is_safetensors and (start[:2] == b"PK" or start[:1] == b"\x80"):
            raise ValueError(
                f"{path}: pickled weights are not loaded. Convert them to safetensors where they were made."
            )
        length = int.from_bytes(start[:8], "little")
        if not is_safetensors or length > _MOST_HEADER_BYTES:
            raise ValueError(f"{path}: no safetensors file (it begins with {start!r}).")
        if 8 + length > size:
            raise ValueError(_truncated(path, size, 8 + length))
        text = b"{" + file.read(length - 1)
    try:
        header = json.loads(text)
        end = (
            8
            + length
            + max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        )
        if end > size:
            raise ValueError(_truncated(path, size, end))
        with safe_open(path, framework="pt"):
            return header
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ValueError(f"{path}: corrupted safetensors header ({error}). Download or copy it again.") from error


def _truncated(path: Path, size: int, needed: int) -> str:
    return f"{path}: truncated, {size} bytes of at least {needed} are there. Download or copy it again."
