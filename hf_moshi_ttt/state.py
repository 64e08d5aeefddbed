"""`MoshiTTTState`: everything a running stream remembers, one row per sample.

The fast weights of the TTT layers (float32), the attention window's keys and values, the last frames of codes that the
delays still need, and the number of frames heard. A state is passed in and out of the model; it can be reset by row,
moved, detached, copied, and saved to one safetensors file in the middle of a mini-batch. A model call may write the
window of the state it is given in place: go on with the state it returns, or `clone()` before.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .attention import KVCache
from .configuration_moshi_ttt import MoshiTTTConfig
from .ttt import TTTState, state_tensors

_FORMAT = "moshi_ttt_state_v1"
# Configuration keys that a state does not depend on.
_FREE_KEYS = {
    "text_loss_weight", "text_padding_weight", "first_codebook_weight_multiplier", "codec",
    "text_tokenizer", "text_stream", "user_stream", "ttt.initial_keep_factor", "ttt.initial_gating_alpha",
    "ttt.persistent_states",
}  # fmt: skip


@dataclass
class MoshiTTTState:
    """The state of `B` streams.

    Args:
        memory: one `TTTState` per TTT layer, in order.
        window: one `KVCache` per temporal layer, or None: then each call starts a new segment, and only the memory is
            carried from one to the next.
        history: `[B, K, max_delay + 1]` int64, the codes of the last frames, -2 where one is still to be predicted.
        initial: `[K]` int64, the history of a fresh stream.
        frames: `[B]` int64, frames since the start of the stream.
    """

    memory: tuple[TTTState, ...]
    window: tuple[KVCache, ...] | None
    history: Tensor
    initial: Tensor
    frames: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return self.frames.shape[0]

    def named_tensors(self) -> dict[str, Tensor]:
        """All tensors by name; every one but `initial` has a row per sample."""
        named = {"history": self.history, "initial": self.initial, "frames": self.frames}
        for index, memory in enumerate(self.memory):
            named.update({f"memory.{index}.{name}": tensor for name, tensor in state_tensors(memory).items()})
        for index, cache in enumerate(self.window or ()):
            named.update({f"window.{index}.keys": cache.keys, f"window.{index}.values": cache.values})
        return named

    def map(self, function: Callable[[str, Tensor], Tensor]) -> "MoshiTTTState":
        """A state with `function(name, tensor)` in place of each tensor."""
        changed = {name: function(name, tensor) for name, tensor in self.named_tensors().items()}
        return self._with_tensors(changed)

    def _with_tensors(self, named: dict[str, Tensor]) -> "MoshiTTTState":
        def many(prefix: str, like: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(named[f"{prefix}.{layer}"] for layer in range(len(like)))

        memory = tuple(
            TTTState(
                delta_weights=many(f"memory.{index}.delta_weights", old.delta_weights),
                delta_biases=many(f"memory.{index}.delta_biases", old.delta_biases),
                ring_inputs=many(f"memory.{index}.ring_inputs", old.ring_inputs),
                ring_grads=many(f"memory.{index}.ring_grads", old.ring_grads),
                ring_lr=named[f"memory.{index}.ring_lr"],
                place=named[f"memory.{index}.place"],
            )
            for index, old in enumerate(self.memory)
        )
        window = self.window and tuple(
            KVCache(named[f"window.{i}.keys"], named[f"window.{i}.values"]) for i in range(len(self.window))
        )
        return MoshiTTTState(memory, window, named["history"], named["initial"], named["frames"])

    def reset(self, rows_B: Tensor | None = None) -> "MoshiTTTState":
        """The state with some rows as fresh ones; the other rows are bit-equal.

        Args:
            rows_B: `[B]` bool, True for rows to reset, or None for all.

        Raises:
            ValueError: `rows_B` is not a bool tensor of B values.
        """
        rows = self._row_mask(torch.ones_like(self.frames, dtype=torch.bool) if rows_B is None else rows_B)

        def fresh(name: str, tensor: Tensor) -> Tensor:
            if name == "initial":
                return tensor
            value = self.initial[:, None].expand_as(tensor) if name == "history" else torch.zeros_like(tensor)
            return torch.where(_per_row(rows, tensor), value, tensor)

        return self.map(fresh)

    def keep_rows(self, rows_B: Tensor, before: "MoshiTTTState") -> "MoshiTTTState":
        """This state for the rows that are True, the state `before` for the others: those stand still.

        The windows are this state's for all rows: the slot a frame writes is outside the window of the state before.
        """
        rows, old = self._row_mask(rows_B), before.named_tensors()

        def chosen(name: str, tensor: Tensor) -> Tensor:
            if name == "initial" or name.startswith("window."):
                return tensor
            return torch.where(_per_row(rows, tensor), tensor, old[name])

        return self.map(chosen)

    def _row_mask(self, rows_B: Tensor) -> Tensor:
        if rows_B.dtype != torch.bool or rows_B.shape != self.frames.shape:
            raise ValueError(
                f"rows must be a bool tensor of {self.batch_size} values, one a row; "
                f"got {rows_B.dtype} of shape {list(rows_B.shape)}."
            )
        return rows_B.to(self.frames.device)

    def detach(self) -> "MoshiTTTState":
        """The same state, cut off from the graph that computed it."""
        return self.map(lambda _, tensor: tensor.detach())

    def clone(self) -> "MoshiTTTState":
        """A copy that later calls do not touch."""
        return self.map(lambda _, tensor: tensor.clone())

    def to(self, device: torch.device | str) -> "MoshiTTTState":
        """The state on another device; dtypes stay."""
        return self.map(lambda _, tensor: tensor.to(device))

    def new_segment(self) -> "MoshiTTTState":
        """The memory alone: attention, positions and delays begin anew."""
        fresh = self.initial[:, None].expand_as(self.history).clone()
        return replace(self, window=None, history=fresh, frames=torch.zeros_like(self.frames))

    def save(self, path: str | Path, config: MoshiTTTConfig) -> None:
        """Writes the state and what of the configuration it depends on to one safetensors file."""
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.named_tensors().items()}
        metadata = {"format": _FORMAT, "config": json.dumps(_function_keys(config), sort_keys=True)}
        save_file(tensors, path, metadata=metadata)

    def load(self, path: str | Path, config: MoshiTTTConfig) -> "MoshiTTTState":
        """The state in a file, for the model this state was made for (`model.init_state(B).load(...)`).

        Raises:
            ValueError: the file is no state, or belongs to another configuration or batch size.
        """
        with safe_open(path, framework="pt", device=str(self.frames.device)) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"{path}: format {metadata.get('format')!r}, but a saved state is {_FORMAT!r}.")
            _require_same_config(json.loads(metadata["config"]), _function_keys(config), path)
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        expected = {name: list(tensor.shape) for name, tensor in self.named_tensors().items()}
        found = {name: list(tensor.shape) for name, tensor in named.items()}
        if expected != found:
            differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            name = differing[0]
            raise ValueError(
                f"{path}: {name} has shape {found.get(name)}, but this state has {expected.get(name)} "
                f"({len(differing)} tensors differ). Load into init_state() of the saved batch size."
            )
        return self._with_tensors(named)


def _per_row(rows_B: Tensor, tensor: Tensor) -> Tensor:
    return rows_B.view(-1, *[1] * (tensor.dim() - 1))


def _function_keys(config: MoshiTTTConfig) -> dict[str, object]:
    return {key: value for key, value in config.own_values().items() if key not in _FREE_KEYS}


def _require_same_config(saved: dict[str, object], own: dict[str, object], path: str | Path) -> None:
    for key in sorted(saved.keys() | own.keys()):
        if saved.get(key) != own.get(key):
            raise ValueError(f"{path}: saved with {key}={saved.get(key)!r}, but the model has {key}={own.get(key)!r}.")
