"""`StreamState`: the base class of every state of a stream: reset by row, copy, move, save, load.

A state is a dataclass of tensors with one row per sample; tuples of tensors and states inside states are allowed. It is
passed in and out of a layer, never stored in one. It is not registered with torch's pytrees on purpose: what casts the
arguments of a module, such as FSDP2's mixed precision, leaves it in its own dtype.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_FORMAT = "moshi_ttt_state_v2"


@dataclass
class StreamState:
    """A dataclass of tensors `[B, ...]`; zeros are a fresh row unless a subclass says otherwise."""

    def named_tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as they are stored in a file: `memory.0.delta_weights.1`."""
        named: dict[str, Tensor] = {}
        for field in fields(self):
            named.update(_named(field.name, getattr(self, field.name)))
        return named

    def layout(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name, without its rows."""
        return {name: tuple(tensor.shape[1:]) for name, tensor in self.named_tensors().items()}

    def map(self, function: Callable[[str, Tensor], Tensor], prefix: str = "") -> Self:
        """A state with `function(name, tensor)` in place of each tensor."""
        return replace(
            self,
            **{field.name: _mapped(prefix + field.name, getattr(self, field.name), function) for field in fields(self)},
        )

    @property
    def batch_size(self) -> int:
        """B."""
        return next(iter(self.named_tensors().values())).shape[0]

    def fresh_value(self, name: str, tensor: Tensor) -> Tensor:
        """What a tensor of this state holds before the first frame."""
        return torch.zeros_like(tensor)

    def reset(self, rows_B: Tensor | None = None) -> Self:
        """The state with some rows as fresh ones; the other rows are bit-equal.

        Args:
            rows_B: `[B]` bool, True for rows to reset, or None for all.

        Raises:
            ValueError: `rows_B` is not a bool tensor of B values.
        """
        if rows_B is None:
            return self.map(self.fresh_value)
        rows = self.row_mask(rows_B)
        return self.map(lambda name, old: torch.where(per_row(rows, old), self.fresh_value(name, old), old))

    def row_mask(self, rows_B: Tensor) -> Tensor:
        """The mask on the state's device.

        Raises:
            ValueError: not a bool tensor of B values.
        """
        if rows_B.dtype != torch.bool or rows_B.shape != (self.batch_size,):
            raise ValueError(
                f"rows must be a bool tensor of {self.batch_size} values, one a row; "
                f"got {rows_B.dtype} of shape {list(rows_B.shape)}."
            )
        return rows_B.to(next(iter(self.named_tensors().values())).device)

    def detach(self) -> Self:
        """The same state, cut off from the graph that computed it."""
        return self.map(lambda _, tensor: tensor.detach())

    def clone(self) -> Self:
        """A copy that later calls do not touch."""
        return self.map(lambda _, tensor: tensor.clone())

    def to(self, device: torch.device | str) -> Self:
        """The state on another device; dtypes stay."""
        return self.map(lambda _, tensor: tensor.to(device))

    def num_bytes(self) -> int:
        """Bytes of all its tensors, for `meta` tensors too."""
        return sum(tensor.nbytes for tensor in self.named_tensors().values())

    def save(self, path: str | Path, config: Any) -> None:
        """Writes the state, and what of the configuration it depends on, to one safetensors file, as a whole.

        Args:
            config: the `MoshiTTTConfig` or `TTTConfig` of the model or layer it belongs to.
        """
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.named_tensors().items()}
        metadata = {"format": _FORMAT, "config": json.dumps(config.state_values(), sort_keys=True)}
        from ..whole_files import replacing

        with replacing(path) as beside:
            save_file(tensors, beside, metadata=metadata)

    def load(self, path: str | Path, config: Any) -> Self:
        """The state in a file, for what this state was made for (`model.init_state(B).load(...)`).

        Raises:
            ValueError: the file is no state or not whole, or belongs to another configuration or batch size.
        """
        own = self.named_tensors()
        with _opened(path, str(next(iter(own.values())).device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"{path}: format {metadata.get('format')!r}, but a saved state is {_FORMAT!r}.")
            saved = config.current_state_values(json.loads(metadata["config"]))
            _require_same_config(saved, config.state_values(), path)
            # Copies: on CPUs the tensors are the pages of the file, and would change with it.
            named = {_current_name(name): file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        _require_same_layout(own, named, path)
        return self.map(lambda name, _: named[name])


@contextmanager
def _opened(path: str | Path, device: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device=device) as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or no saved state ({error}). Take another copy.") from error


def require_layout(state: StreamState, layout: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses a state that was made for something else.

    Args:
        layout: that of a state of one's own.

    Raises:
        ValueError: other tensors, or tensors of other shapes.
    """
    found = state.layout()
    differing = [name for name in sorted(found.keys() | layout.keys()) if found.get(name) != layout.get(name)]
    if differing:
        name = differing[0]
        shapes = [list(each[name]) if name in each else "absent" for each in (found, layout)]
        raise ValueError(
            f"The state belongs to another layer or configuration: {name} is {shapes[0]} a row, but {shapes[1]} here "
            f"({len(differing)} tensors differ). Take one of init_state() of this layer, or that it returned."
        )


class OwnStates:
    """Of a module that makes states: refuses those of others."""

    def init_state(self, batch_size: int, *, device: torch.device | str | None = None) -> StreamState:
        """A fresh state of `batch_size` rows."""
        raise NotImplementedError

    @cached_property
    def _layout(self) -> dict[str, tuple[int, ...]]:
        return self.init_state(1, device="meta").layout()

    def require_own(self, state: StreamState) -> None:
        """Refuses a state that was made for something else; nothing is asked under `torch.compile`.

        Raises:
            ValueError: as `require_layout` says.
        """
        if not torch.compiler.is_compiling():
            require_layout(state, self._layout)


def per_row(rows_B: Tensor, tensor: Tensor) -> Tensor:
    """A row mask that broadcasts over `tensor` `[B, ...]`."""
    return rows_B.view(-1, *[1] * (tensor.dim() - 1))


def _current_name(stored: str) -> str:
    """The name of a stored tensor; states of 0.1.0 call the position in the mini-batch `place`."""
    return re.sub(r"(^|\.)place$", r"\1position", stored)


def _named(name: str, value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, StreamState):
        return {f"{name}.{inner}": tensor for inner, tensor in value.named_tensors().items()}
    named: dict[str, Tensor] = {}
    for index, item in enumerate(value or ()):
        named.update(_named(f"{name}.{index}", item))
    return named


def _mapped(name: str, value: Any, function: Callable[[str, Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(name, value)
    if isinstance(value, StreamState):
        return value.map(function, f"{name}.")
    return value and tuple(_mapped(f"{name}.{index}", item, function) for index, item in enumerate(value))


def _require_same_config(saved: Mapping[str, object], own: Mapping[str, object], path: str | Path) -> None:
    for key in sorted(saved.keys() | own.keys()):
        if saved.get(key) != own.get(key):
            raise ValueError(f"{path}: saved with {key}={saved.get(key)!r}, but the model has {key}={own.get(key)!r}.")


def _require_same_layout(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: str | Path) -> None:
    layouts = [
        {name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for name, tensor in named.items()}
        for named in (found, own)
    ]
    differing = sorted(name for name in own.keys() | found.keys() if layouts[0].get(name) != layouts[1].get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{path}: {name} is {layouts[0].get(name, 'absent')}, but {layouts[1].get(name, 'absent')} in this state "
            f"({len(differing)} tensors differ). Load into init_state() of the saved batch size and dtype."
        )
