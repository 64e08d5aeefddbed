"""Say what this machine can do: versions, GPU, memory, codec, tokenizer, optional packages, disk; and what to run next.

hf-moshi-ttt doctor
hf-moshi-ttt doctor --corpus librilight.jsonl --folder /data --json
"""

import argparse
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from ..extras import EXTRAS
from .parser import add_json

MIMI = "kyutai/mimi"
KYUTAI_TOKENIZER = "hf://kyutai/moshiko-pytorch-bf16/tokenizer_spm_32k_3.model"
TESTED = {
    "torch": "2.13.0", "transformers": "5.24.0", "accelerate": "1.15.0", "datasets": "5.2.0", "evaluate": "0.4.6",
    "peft": "0.21.2", "huggingface_hub": "2.4.0", "safetensors": "0.8.0", "numpy": "2.4.6",
}  # fmt: skip
_CODES_BYTES_PER_SEC = 12.5 * 17 * 2  # 17 streams of int16, 12.5 frames a second
_MODEL_7B_BYTES = 2 * 7_687_729_152


class Row(NamedTuple):
    """One line of the table: `state` is ok, untested, absent, unreachable or short; `remedy` is empty or a command."""

    what: str
    state: str
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--codec", default=MIMI, help="name or path of the codec to look for (%(default)s)")
    parser.add_argument("--text-tokenizer", default=KYUTAI_TOKENIZER, help="SentencePiece model (%(default)s)")
    parser.add_argument("--corpus", help="index (.jsonl) whose codes must fit on the disk")
    parser.add_argument("--data-dir", help="folder that its audio must lie in, links followed (the index's own)")
    parser.add_argument("--folder", type=Path, default=Path(), help="folder whose disk is looked at (%(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints the table; returns it."""
    rows = [*versions(), *machine(), codec(arguments.codec), tokenizer(arguments.text_tokenizer), *optional()]
    rows.append(disk(arguments.folder, arguments.corpus, arguments.data_dir))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip())
    print(f"\nnext: {next_step(rows)}")
    return {"rows": [row._asdict() for row in rows], "next": next_step(rows)}


def installed(package: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> Iterator[Row]:
    """Python and what the package needs, against the versions that it was tested with."""
    yield Row("python", "ok", platform.python_version())
    for package, tested in TESTED.items():
        found = installed(package)
        state = "absent" if found is None else "ok" if found.partition("+")[0] == tested else "untested"
        remedy = "" if state == "ok" else f"pip install {package}=={tested} (the version that was tested)"
        yield Row(package, state, found or "-", remedy)


def optional() -> Iterator[Row]:
    """What is used where it is installed."""
    for package, extra in EXTRAS.items():
        found = installed(package)
        state, remedy = ("ok", "") if found else ("absent", extra.command)
        yield Row(package, state, f"{found or '-'}, for {extra.purpose}", remedy)


def machine() -> Iterator[Row]:
    """GPUs, processors and memory."""
    if installed("torch") is None:
        yield Row("gpu", "absent", "unknown without torch", "pip install torch")
    else:
        yield from _gpus()
    free, total = (os.sysconf(f"SC_{kind}_PAGES") * os.sysconf("SC_PAGE_SIZE") for kind in ("AVPHYS", "PHYS"))
    yield Row("memory", "ok", f"{_gib(free)} free of {_gib(total)}, {os.cpu_count()} CPUs")


def _gpus() -> Iterator[Row]:
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        fits = "holds" if free > _MODEL_7B_BYTES else "does not hold"
        name = torch.cuda.get_device_name(index)
        yield Row("gpu", "ok", f"{name}, {_gib(free)} free of {_gib(total)}: {fits} the 7B in bfloat16")
    if torch.cuda.device_count() == 0:
        yield Row("gpu", "absent", "none: the presets tiny and small run on CPUs")


def codec(name: str) -> Row:
    """Whether a codec can be loaded: from a folder, from the cache, or from the Hub."""
    remedy = "--codec FOLDER, or hf-moshi-ttt fit-codec AUDIO --output FOLDER for a small one of your own"
    if Path(name).is_dir():
        return Row("codec", "ok", f"{name}: a folder")
    return _on_the_hub("codec", name, "config.json", remedy)


def tokenizer(name: str) -> Row:
    """The same for a text tokenizer: a file, or `hf://owner/repository/file`."""
    remedy = "--text-tokenizer FILE, or hf-moshi-ttt train-tokenizer TEXT --output FILE; audio alone needs none"
    if Path(name).is_file():
        return Row("text tokenizer", "ok", f"{name}: a file")
    repository, _, filename = name.removeprefix("hf://").rpartition("/")
    return _on_the_hub("text tokenizer", repository, filename, remedy)


def _on_the_hub(what: str, repository: str, filename: str, remedy: str) -> Row:
    if installed("huggingface_hub") is None:
        return Row(what, "unreachable", f"{repository}: unknown without huggingface_hub", "pip install huggingface_hub")
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        if isinstance(try_to_load_from_cache(repository, filename), str):
            return Row(what, "ok", f"{repository}: in the cache")
        HfApi().model_info(repository, timeout=5)
    except (OSError, HTTPError, HFValidationError, RuntimeError) as error:
        return Row(what, "unreachable", f"{repository}: {type(error).__name__}", remedy)
    return Row(what, "ok", f"{repository}: on the Hub")


def disk(folder: Path, corpus: str | None, data_dir: str | None = None) -> Row:
    """Free space, and what the codes of a corpus need.

    Args:
        corpus: its index; None for no corpus.
        data_dir: the folder that its audio must lie in, None for the index's own.

    Raises:
        ValueError: bad index, or no line of it can be used.
    """
    existing = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if corpus is None:
        hours = free / _CODES_BYTES_PER_SEC / 3600
        return Row("disk", "ok", f"{_gib(free)} free in {existing}: codes of {hours:,.0f} hours of audio")
    from ..data.bad_files import BadFiles
    from ..data.index import read_index

    bad = BadFiles()
    entries = read_index(corpus, bad, data_dir)
    bad.require_few(len(entries) + len(bad.reasons))
    duration_sec = sum(entry["duration"] for entry in entries)
    needed = int(duration_sec * _CODES_BYTES_PER_SEC)
    found = f"{_gib(free)} free in {existing}, {_gib(needed)} for {duration_sec / 3600:,.1f} hours"
    return Row("disk", "ok" if needed < free else "short", found, "" if needed < free else "--folder on a larger disk")


def next_step(rows: list[Row]) -> str:
    """What to run, by what is there."""
    states = {row.what: row.state for row in rows}
    missing = [package for package in TESTED if states[package] == "absent"]
    if missing:
        return f"pip install {' '.join(missing)}"
    if states["codec"] != "ok":
        return "hf-moshi-ttt demo (offline), or hf-moshi-ttt prepare RECORDINGS --codec FOLDER --output CODES"
    return "hf-moshi-ttt prepare RECORDINGS --output CODES, then hf-moshi-ttt train --help"


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
