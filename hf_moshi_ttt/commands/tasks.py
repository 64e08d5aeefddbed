r"""Measure paired likelihood tasks and the text perplexity of a model; writes tasks.json.

    hf-moshi-ttt tasks --model MODEL --output DIR --task swuggy=zerospeech2021/lexical/dev \
        --task salmon=salmon_benchmark --items 500 --dailytalk CODES [text_stream=predicted batch_size=16 ...]
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .model_folder import model_folder
from .parser import SEED, UsageError, add_device, add_json, device_of, nearest, whole, wrong_settings

TASKS = ("swuggy", "sblimp", "tstorycloze", "sstorycloze", "salmon")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--model", required=True, help="name or path of a model")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for tasks.json; a stopped run continues there"
    )
    parser.add_argument("--task", action="append", default=[], metavar="TASK=FOLDER", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--items", type=whole(1), help="how many items of each task, drawn by seed (all)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the draw of items (%(default)s)")
    parser.add_argument("--dailytalk", help="folder of encoded conversations with text")
    parser.add_argument("--data-dir", help="folder that tasks' audio must lie in, links followed (the task's own)")
    parser.add_argument("--dtype", default="auto", help="of the weights, such as float32 (as saved)")
    add_device(parser)
    add_json(parser)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="how recordings are read, as of evaluate")


def tasks_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The folder of each task.

    Raises:
        UsageError: nothing to evaluate, an unknown task, or one without a folder or given twice.
    """
    tasks = [given.partition("=") for given in arguments.task]
    if not tasks and arguments.dailytalk is None:
        raise UsageError("nothing to evaluate: give --task or --dailytalk")
    for task, _, _ in tasks:
        if task not in TASKS:
            raise UsageError(f"--task {task}: no such task; one of {', '.join(TASKS)}.{nearest([task], TASKS)}")
    if not all(folder for _, _, folder in tasks) or len({task for task, _, _ in tasks}) < len(tasks):
        raise UsageError(f"--task {arguments.task}: give each task once, as TASK=FOLDER")
    return {task: folder for task, _, folder in tasks}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluates; writes and returns what is in tasks.json."""
    from ..data.codes import data_fingerprint, load_codes
    from ..data.compatibility import warn_where_trained_on, warn_where_unknown
    from ..evaluation.long_context import describe_model
    from ..evaluation.long_context_settings import parse_long_context_settings
    from ..evaluation.results_file import made_with
    from ..evaluation.text_perplexity import evaluate_text_perplexity
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..settings import read_settings

    tasks = tasks_of(arguments)
    with wrong_settings():
        given = {"check_frames": 0, "batch_size": 16, **read_settings([], arguments.settings)}
        how = parse_long_context_settings(given)
    arguments.model = model_folder(arguments.model)
    loaded: Any = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model, dtype=arguments.dtype)
    model = loaded.to(device_of(arguments.device)).eval()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "model": arguments.model,
        "made_with": made_with(model.device),
        "description": describe_model(model, how),
        "settings": {"items": arguments.items, "seed": arguments.seed, **asdict(how)},
        "tasks": {task: _evaluate_task(model, task, folder, arguments, how) for task, folder in tasks.items()},
    }
    if arguments.dailytalk is not None:
        rows, provenance = load_codes(arguments.dailytalk)
        warn_where_unknown(model.config, provenance, arguments.dailytalk)
        warn_where_trained_on(arguments.model, data_fingerprint(rows, provenance), arguments.dailytalk)
        results["dailytalk"] = evaluate_text_perplexity(model, [row["codes"] for row in rows], how.block_frames)
        print(f"DailyTalk: text perplexity {results['dailytalk']['dailytalk_text_perplexity']:.2f}")
    (arguments.output / "tasks.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return results


def _evaluate_task(model: Any, task: str, folder: str, arguments: argparse.Namespace, how: Any) -> dict[str, Any]:
    from ..data.compatibility import warn_where_unknown
    from ..evaluation.paired_items import draw_items, read_pairs
    from ..evaluation.paired_likelihood import evaluate_pairs
    from ..evaluation.recordings import encode_files

    pairs = draw_items(read_pairs(task, folder), arguments.items, arguments.seed)
    names = [name for pair in pairs for name in (pair.right, pair.wrong)]
    rows, provenance = encode_files(folder, names, model.config.codec, arguments.output / "codes", arguments.data_dir)
    warn_where_unknown(model.config, provenance, folder)
    codes = {row["path"]: row["codes"] for row in rows}
    kept = str(arguments.output / "losses")
    found = evaluate_pairs(model, pairs, codes, how, provenance.silence_codes, kept)
    score = found["accuracy"]
    print(f"{task}: {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}], {found['items']} items")
    return {"folder": folder, **found}
