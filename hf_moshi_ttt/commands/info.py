"""Describe a checkpoint or a run: shape, memory layers, codec and sizes; or settings, progress and what to look at.

hf-moshi-ttt info kyutai/moshiko-pytorch-bf16
hf-moshi-ttt info runs/mine --html page.html        # one file with findings, curves and samples
"""

import argparse
import json
from pathlib import Path
from typing import Any

from .parser import UsageError, add_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("source", metavar="MODEL|RUN", help="name or folder of a checkpoint of any layout, or a run")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page about a run: findings, curves, samples")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prints what is known of it; returns it."""
    described = describe_run(Path(arguments.source)) if _is_run(arguments.source) else {}
    if arguments.html is not None:
        _write_page(arguments.source, described, arguments.html)
    if not described or Path(arguments.source, "config.json").is_file():
        described["model"] = describe_model(arguments.source)
    width = max(len(name) for facts in described.values() for name in facts)
    for section, facts in described.items():
        print(section)
        for name, value in facts.items():
            print(f"  {name:<{width}}  {value}")
    return described


def _write_page(source: str, described: dict[str, Any], path: Path) -> None:
    from ..training.run_files import read_metrics
    from ..training.run_findings import run_findings
    from ..training.run_page import write_run_page

    if not described:
        raise UsageError(f"--html is for runs, but {source} has no run.json")
    folder = Path(source)
    written = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    entries, last = read_metrics(folder), written["sessions"][-1]
    findings = run_findings(entries, last["settings"], written["config"])
    sections = {"progress": described["progress"], **described, "parameters": written["parameters"]}
    sections["versions"] = last["versions"]
    write_run_page(folder, entries, findings, {**sections, "model": written["config"]}, path)
    print(path)


def _is_run(source: str) -> bool:
    return Path(source, "run.json").is_file()


def describe_model(source: str) -> dict[str, Any]:
    """A model by its configuration alone; its weights are not read.

    Raises:
        ValueError: no checkpoint of a known layout.
    """
    import torch

    from ..checkpoints.repository import Repository, read_config
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

    config = read_config(Repository(source))
    with torch.device("meta"):
        model: Any = MoshiTTTForConditionalGeneration(config)
        state = model.init_state(1)
    ttt = config.ttt
    memory = "none" if ttt is None else f"{ttt.learner} in layers {config.ttt_layer_indices}"
    return {
        "parameters": model.num_parameters(),
        "bfloat16 GiB": round(2 * model.num_parameters() / 2**30, 2),
        "layers": config.num_hidden_layers,
        "hidden size": config.hidden_size,
        "attention window sec": config.sliding_window / 12.5,
        "memory": memory,
        "state of a stream MiB": round(state.num_bytes() / 2**20, 3),
        "codec": config.codec,
        "text tokenizer": config.text_tokenizer,
    }


def describe_run(folder: Path) -> dict[str, Any]:
    """A run by its run.json and metrics.jsonl."""
    from ..training.checkpoint_folders import CheckpointFolders
    from ..training.run_files import read_metrics

    written = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    last, entries = written["sessions"][-1], read_metrics(folder)
    losses = {name: entry[name] for entry in entries for name in ("text_loss", "audio_loss") if name in entry}
    return {
        "settings": last["settings"],
        "data": written["data"],
        "progress": {
            "started": last["started"],
            "sessions": len(written["sessions"]),
            "step": max((entry["step"] for entry in entries), default=0),
            "checkpoints": [path.name for path in CheckpointFolders(folder).present()],
            **losses,
        },
        "machine": {"commit": last["commit"], **last["hardware"]},
    }
