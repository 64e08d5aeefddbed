"""Losses of finished recordings on disk, so that an evaluation that was stopped continues where it stopped.

A file's name is a hash of all that its losses depend on: the weights and settings of the model, the way it is run, and
the codes with their text and user rows. The comparison of blocks with single frames (`block_check`) is kept beside the
losses. Files are written in one step.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..whole_files import write_whole


def model_sha256(model: nn.Module, settings: Mapping[str, Any]) -> str:
    """A hash of a model's weights and of the settings that its function depends on."""

    def digest(item: tuple[str, Tensor]) -> str:
        name, tensor = item
        tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        return f"{name} {tensor.dtype} {list(tensor.shape)} {hashlib.sha256(data.data).hexdigest()}"

    items = sorted(model.state_dict().items())
    is_sharded = any(isinstance(tensor, DTensor) for _, tensor in items)
    with ThreadPoolExecutor(1 if is_sharded else None) as pool:  # all processes gather shards in the same order
        lines = list(pool.map(digest, items))
    return hashlib.sha256("\n".join([*lines, json.dumps(settings, sort_keys=True, default=str)]).encode()).hexdigest()


class KeptLosses:
    """A folder of losses of one model run in one way.

    Args:
        folder: where the losses are written; None keeps nothing.
        recipe: what the losses depend on besides a recording's codes.
    """

    def __init__(self, folder: str | Path | None, recipe: str) -> None:
        self.folder = None if folder is None else Path(folder)
        self.recipe = recipe
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def _path(self, codes_KT: np.ndarray) -> Path:
        digest = hashlib.sha256(f"{self.recipe} {codes_KT.dtype} {codes_KT.shape}".encode())
        digest.update(np.ascontiguousarray(codes_KT).data)
        assert self.folder is not None
        return self.folder / f"{digest.hexdigest()}.npy"

    def read(self, codes_KT: np.ndarray) -> np.ndarray | None:
        """The losses `[Q, T]` of a recording that was finished before.

        Raises:
            ValueError: the file is damaged.
        """
        if self.folder is None or not self._path(codes_KT).is_file():
            return None
        path = self._path(codes_KT)
        try:
            losses = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: damaged ({error}). Delete it; its recording is then evaluated again.") from error
        if losses.dtype != np.float32 or losses.ndim != 2 or losses.shape[1] != codes_KT.shape[1]:
            raise ValueError(
                f"{path}: holds {losses.dtype} {list(losses.shape)}, not float32 [Q, {codes_KT.shape[1]}]. Delete it."
            )
        return losses

    def write(self, codes_KT: np.ndarray, losses_QT: np.ndarray) -> None:
        """Keeps the losses of a finished recording."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        np.save(buffer, losses_QT, allow_pickle=False)
        write_whole(self._path(codes_KT), buffer.getvalue())

    def read_check(self, recordings: Sequence[np.ndarray]) -> dict[str, Any] | None:
        """What `write_check` kept of the same recordings.

        Raises:
            ValueError: the file is damaged.
        """
        if self.folder is None or not self._check_path(recordings).is_file():
            return None
        path = self._check_path(recordings)
        try:
            check = json.loads(path.read_text(encoding="utf-8"))
            return {"first_frame": int(check["first_frame"]), "frames": int(check["frames"]),
                    "max_difference_nats": float(check["max_difference_nats"])}  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: damaged ({error}). Delete it and the losses beside it.") from error

    def write_check(self, recordings: Sequence[np.ndarray], check: Mapping[str, Any]) -> None:
        """Keeps how blocks compared with single frames."""
        if self.folder is not None:
            write_whole(self._check_path(recordings), json.dumps(dict(check)).encode())

    def _check_path(self, recordings: Sequence[np.ndarray]) -> Path:
        assert self.folder is not None
        names = "\n".join(sorted(self._path(codes_KT).name for codes_KT in recordings))
        return self.folder / f"{hashlib.sha256(names.encode()).hexdigest()}.check.json"
