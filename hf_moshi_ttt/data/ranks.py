"""Processes of one torchrun, on one machine or on several with a shared folder, that make the same list of files.

torchrun says who is who in RANK, WORLD_SIZE and LOCAL_RANK. The processes talk through lock files alone: a file that is
missing is made by the process that holds its lock. The lock of a process that dies is free again, so the others make
what it left, and a run that is started again makes what is missing.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

_POLL_SEC = 0.5
Job = TypeVar("Job", bound=tuple[Any, ...])
Result = TypeVar("Result")


_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


@dataclass(frozen=True)
class Rank:
    """A process among `count`; `local_index` counts those of its machine."""

    index: int = 0
    count: int = 1
    local_index: int = 0

    @classmethod
    def of_this_process(cls) -> "Rank":
        """What torchrun put into the environment; the only process where it put nothing."""
        return cls(*(int(os.environ.get(name, default)) for name, default in _VARIABLES.items()))


def shared_out(jobs: Sequence[Job], rank: Rank, run: Callable[[list[Job]], Iterable[Result]]) -> Iterator[Result]:
    """Yields what `run` yields, until the file of every job exists, whoever made it.

    Args:
        jobs: tuples that end with the file that they make.
        run: makes the files of the jobs it is given, by way of `made_once`: first this rank's part of those that nobody
            has in hand, then the others of them.
    """
    while missing := [job for job in jobs if not job[-1].is_file()]:
        free = [job for job in missing if not _is_in_hand(job[-1])]
        order = sorted(range(len(free)), key=lambda number: (number - rank.index) % rank.count != 0)
        if free:
            yield from run([free[number] for number in order])
        else:
            time.sleep(_POLL_SEC)


def made_once(file: Path, make: Callable[[Path], object]) -> None:
    """Lets `make` write the file unless it exists or another process is at it.

    Args:
        make: writes to the path that it is given, in a folder of its own beside `file`.
    """
    try:
        with FileLock(_lock_of(file), timeout=0):
            if file.is_file():
                return
            folder = file.with_suffix(".making")
            shutil.rmtree(folder, ignore_errors=True)  # what a process left that died
            folder.mkdir()
            make(folder / file.name)
            (folder / file.name).replace(file)
            folder.rmdir()
    except Timeout:
        return


def _lock_of(file: Path) -> Path:
    return file.with_suffix(".lock")


def _is_in_hand(file: Path) -> bool:
    try:
        with FileLock(_lock_of(file), timeout=0):
            return False
    except Timeout:
        return True
