"""Saved memories on disk: a folder for each token, file names made here, no path of a client's.

A client names a memory by the id that it was given; the id is looked up among the token's own, and never joined to a
path. The folder of a token is a hash of it.
"""

import hashlib
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..whole_files import replacing
from .limits import Limits

_NAME = re.compile(r"[0-9a-f]{16}")
_SUFFIX = ".safetensors"


class MemoryStore:
    """Memories under a folder.

    Args:
        folder: is made where it is missing.
        limits: how many, and how large.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        folder.mkdir(parents=True, exist_ok=True)

    def _folder_of(self, owner: str) -> Path:
        return self.folder / hashlib.sha256(owner.encode()).hexdigest()[:32]

    def _files(self, owner: str) -> dict[str, Path]:
        """The memories of a token by id, the newest first."""
        found = [path for path in self._folder_of(owner).glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.stem)]
        return {path.stem: path for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)}

    def entries(self, owner: str) -> list[dict[str, Any]]:
        """`id`, `saved_sec` (since 1970) and `bytes` of every memory of a token, the newest first."""
        stats = {name: path.stat() for name, path in self._files(owner).items()}
        return [{"id": name, "saved_sec": stat.st_mtime, "bytes": stat.st_size} for name, stat in stats.items()]

    def save(self, owner: str, write: Callable[[Path], Any]) -> str:
        """A memory that a function writes; the file is there whole or not at all.

        Returns:
            its id.

        Raises:
            ValueError: the token has as many as it may, or this one is too large.
        """
        if len(self._files(owner)) >= self.limits.memories:
            raise ValueError(f"There are {self.limits.memories} saved memories, the most: delete one first.")
        name = secrets.token_hex(8)
        path = self._folder_of(owner) / f"{name}{_SUFFIX}"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as unfinished:
            write(unfinished)
            self._require_size(unfinished)
        return name

    def path_of(self, owner: str, name: str) -> Path:
        """The file of a token's own memory.

        Raises:
            ValueError: it has none of this id, or the file is larger than the bound.
        """
        files = self._files(owner)
        if name not in files:
            raise ValueError("There is no saved memory of this id.")
        self._require_size(files[name])
        return files[name]

    def delete(self, owner: str, name: str) -> None:
        """Removes a token's own memory.

        Raises:
            ValueError: it has none of this id.
        """
        self.path_of(owner, name).unlink()

    def _require_size(self, path: Path) -> None:
        size = path.stat().st_size
        if size > self.limits.memory_bytes:
            raise ValueError(f"The memory has {size:,} bytes, but {self.limits.memory_bytes:,} are allowed.")

    def num_bytes(self) -> int:
        """Bytes of all saved memories."""
        return sum(path.stat().st_size for path in self.folder.glob(f"*/*{_SUFFIX}"))
