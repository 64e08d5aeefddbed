"""What a run leaves beside its checkpoints: `metrics.jsonl`, a line a log, and `run.json`, what it was made with.

`run.json` has a `schema`, the model's `config`, the `data` with its fingerprint, the `parameters` by group, and the
`sessions`: each start of the run with its settings, versions, commit and hardware. Settings that hold tokens are left
out.
"""

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..whole_files import write_whole

logger = logging.get_logger(__name__)

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "peft", "safetensors", "numpy", "hf_moshi_ttt")


class MetricsFile(TrainerCallback):
    """Keeps `metrics.jsonl` equal to what the run has logged, also when it continues from an earlier step."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes what was logged up to the step that the run starts from."""
        if state.is_world_process_zero:
            lines = "".join(_line(entry) for entry in state.log_history)
            write_whole(Path(str(args.output_dir), METRICS_FILE), lines)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Adds a line."""
        if state.is_world_process_zero:
            with Path(str(args.output_dir), METRICS_FILE).open("a", encoding="utf-8") as file:
                file.write(_line(state.log_history[-1]))


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """What a run has logged; a last line that is not whole, as of a run that is writing or was cut off, is left out.

    Raises:
        ValueError: the folder holds no metrics.jsonl, or another line of it is damaged.
    """
    path = Path(folder, METRICS_FILE)
    if not path.is_file():
        raise ValueError(f"{folder}: no {METRICS_FILE}. It is no run of hf-moshi-ttt train, or has logged nothing yet.")
    *lines, rest = path.read_bytes().split(b"\n")
    if rest.endswith(b"}"):
        lines.append(rest)
    elif rest:
        logger.warning(f"{path}: the last line is not whole and is left out.")
    return [_entry(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def _entry(line: bytes, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON in UTF-8 ({error}). Take the line out.") from error
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: expected an object, got {type(entry).__name__}. Take the line out.")
    return entry


def write_run(folder: Path, settings: dict[str, Any], start: dict[str, Any], facts: dict[str, Any]) -> None:
    """Adds a session to `run.json`, or begins it.

    Args:
        start: how this session starts: the checkpoint it continues from and the number of processes.
        facts: the other keys: `config`, `data` and `parameters`.
    """
    path = folder / RUN_FILE
    earlier = json.loads(path.read_text(encoding="utf-8"))["sessions"] if start["checkpoint"] and path.is_file() else []
    session = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"), **start,
        "settings": {key: value for key, value in settings.items() if "token" not in key},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "commit": commit(), "hardware": hardware(),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"schema": 1, **facts, "sessions": [*earlier, session]}, indent=1) + "\n")


def commit() -> str | None:
    """The commit of this code, with `+` where files differ from it or are new; None where git does not have it."""
    folder = Path(__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:  # its own, not one around it
        return None
    head, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--", "..")
    return None if head is None else head + ("+" if changed else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git says in a folder; None where it fails."""
    found = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def code_sha256() -> str:
    """A hash of this package's own Python files and of their names."""
    package, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def hardware() -> dict[str, Any]:
    """The machine of this process."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"host": platform.node(), "machine": platform.machine(), "cpus": os.cpu_count(), "gpus": gpus}
