"""Checkpoints on disk: written beside, renamed when whole, and only whole ones are picked.

A checkpoint is written into `.saving/` and renamed to `checkpoint-N` when all of it has reached the disk; `files.json`
in it says which files of which size belong to it. What is in `.saving/` belongs to a save or a removal that was
interrupted, and is never read.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch.distributed.checkpoint.api import CheckpointException  # no Exception, but a BaseException
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..checkpoints.weight_files import remove_stale_weights

logger = logging.get_logger(__name__)

MANIFEST = "files.json"
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written."""


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint's folder, or -1."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def what_is_wrong(checkpoint: Path) -> str | None:
    """Why a checkpoint is not whole, or None."""
    if not (checkpoint / MANIFEST).is_file():
        return f"it has no {MANIFEST}: it was not finished, or not written by this trainer"
    try:
        sizes = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        return f"its {MANIFEST} is damaged"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
    return None


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint in a folder: the folder itself, or the newest whole one of a run's.

    Raises:
        ValueError: there is none, or the one that is named is not whole.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such checkpoint.")
    if step_of(folder) < 0 and (newest := CheckpointFolders(folder).newest()) is not None:
        return newest
    if (problem := what_is_wrong(folder)) is not None:
        raise ValueError(f"{folder}: cannot be continued, {problem}.")
    return folder


class CheckpointFolders:
    """The checkpoints of the run in `output_dir`."""

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.saving = self.output_dir / ".saving"

    def present(self) -> list[Path]:
        """The folders of checkpoints, whole or not, from the first step to the last."""
        return sorted((path for path in self.output_dir.glob("*") if step_of(path) >= 0), key=step_of)

    def newest(self) -> Path | None:
        """The last whole checkpoint; those after it that are not are reported."""
        for checkpoint in reversed(self.present()):
            if (problem := what_is_wrong(checkpoint)) is None:
                return checkpoint
            logger.warning(f"{checkpoint} is skipped: {problem}.")
        return None

    def clear(self) -> None:
        """Makes `.saving/` empty."""
        shutil.rmtree(self.saving, ignore_errors=True)
        self.saving.mkdir(parents=True)

    @contextmanager
    def explained_failures(self, what: str) -> Iterator[None]:
        """Says which checkpoint is left when a save fails.

        Raises:
            CheckpointError: for every error of writing, such as a full disk.
        """
        try:
            yield
        except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
            shutil.rmtree(self.saving, ignore_errors=True)
            free = shutil.disk_usage(self.output_dir).free / 2**20
            newest = self.newest()
            left = "There is no earlier checkpoint" if newest is None else f"{newest} is untouched"
            raise CheckpointError(
                f"{what} could not be written: {error} ({free:,.0f} MiB are free in {self.output_dir}). {left}. "
                "Make room and start again with resume_from_checkpoint=true."
            ) from error

    def publish(self, name: str) -> Path:
        """Turns `.saving/NAME` into a checkpoint, in place of one of the same name."""
        source, target = self.saving / name, self.output_dir / name
        files = sorted(path for path in source.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(source)): path.stat().st_size for path in files}
        (source / MANIFEST).write_text(json.dumps(sizes, indent=0), encoding="utf-8")
        for path in [*files, source / MANIFEST, *(path for path in source.rglob("*") if path.is_dir()), source]:
            _flush(path)
        if target.exists():
            self.remove(target)
        source.rename(target)
        _flush(self.output_dir)
        return target

    def publish_files(self, name: str) -> None:
        """Moves the files of `.saving/NAME` into the run's folder, one by one, in place of weights of any layout."""
        files = sorted((self.saving / name).iterdir())
        for path in files:
            _flush(path)
            path.replace(self.output_dir / path.name)
        remove_stale_weights(self.output_dir, [path.name for path in files])
        _flush(self.output_dir)
        shutil.rmtree(self.saving)

    def remove(self, checkpoint: Path) -> None:
        """Removes a checkpoint such that it is never seen in part."""
        self.saving.mkdir(exist_ok=True)
        gone = self.saving / f"removed-{checkpoint.name}"
        shutil.rmtree(gone, ignore_errors=True)
        checkpoint.rename(gone)
        shutil.rmtree(gone)

    def rotate(self, limit: int | None, best: str | None = None) -> None:
        """Removes the oldest until `limit` whole ones are left; the newest and the best stay whatever the limit."""
        if limit is None or limit <= 0:
            return
        whole = [checkpoint for checkpoint in self.present() if what_is_wrong(checkpoint) is None]
        kept = {whole[-1].resolve(), Path(best).resolve() if best else whole[-1].resolve()}
        oldest = [checkpoint for checkpoint in whole if checkpoint.resolve() not in kept]
        for checkpoint in oldest[: max(0, len(whole) - limit)]:
            self.remove(checkpoint)


def _flush(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
