r"""Paired likelihood tasks and text perplexity of a model; writes tasks.json.

python scripts/evaluate_tasks.py --model MODEL --output DIR --task swuggy=zerospeech2021/lexical/dev \
    --task salmon=salmon_benchmark --items 500 --dailytalk CODES [text_stream=predicted batch_size=16 ...]
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.compatibility import warn_where_unknown
from hf_moshi_ttt.evaluation.long_context import describe_model
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings, parse_long_context_settings
from hf_moshi_ttt.evaluation.paired_items import TASKS, draw_items, read_pairs
from hf_moshi_ttt.evaluation.paired_likelihood import evaluate_pairs
from hf_moshi_ttt.evaluation.recordings import encode_files
from hf_moshi_ttt.evaluation.results_file import made_with
from hf_moshi_ttt.evaluation.text_perplexity import evaluate_text_perplexity
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.settings import read_settings


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="name or path")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for tasks.json; a stopped run continues there"
    )
    parser.add_argument("--task", action="append", default=[], metavar="TASK=FOLDER", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("--data-dir", help="folder that tasks' audio must lie in, links followed (the task's own)")
    parser.add_argument("--items", type=int, help="how many items of each task, drawn by seed (all)")
    parser.add_argument("--seed", type=int, default=0, help="of that draw (%(default)s)")
    parser.add_argument("--dailytalk", help="folder of encoded conversations with text")
    parser.add_argument("--dtype", default="auto", help="of the weights, such as float32 (as saved)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of reading, as for long recordings")
    arguments = parser.parse_intermixed_args()
    tasks = [given.partition("=") for given in arguments.task]
    if not tasks and arguments.dailytalk is None:
        parser.error("nothing to evaluate: give --task or --dailytalk")
    if not all(folder for _, _, folder in tasks) or len({task for task, _, _ in tasks}) < len(tasks):
        parser.error(f"--task {arguments.task}: give each task once, as TASK=FOLDER")
    arguments.task = {task: folder for task, _, folder in tasks}
    return arguments


def evaluate_task(model: Any, task: str, folder: str, arguments: argparse.Namespace, how: LongContextSettings) -> Any:
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


def main() -> None:
    arguments = parse_arguments()
    how = parse_long_context_settings({"check_frames": 0, "batch_size": 16, **read_settings([], arguments.settings)})
    model = MoshiTTTForConditionalGeneration.from_pretrained(arguments.model, dtype=arguments.dtype)
    model = model.to(arguments.device).eval()
    arguments.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {
        "model": arguments.model,
        "made_with": made_with(model.device),
        "description": describe_model(model, how),
        "settings": {"items": arguments.items, "seed": arguments.seed, **asdict(how)},
        "tasks": {},
    }
    for task, folder in arguments.task.items():
        results["tasks"][task] = evaluate_task(model, task, folder, arguments, how)
    if arguments.dailytalk is not None:
        rows, provenance = load_codes(arguments.dailytalk)
        warn_where_unknown(model.config, provenance, arguments.dailytalk)
        results["dailytalk"] = evaluate_text_perplexity(model, [row["codes"] for row in rows], how.block_frames)
        print(f"DailyTalk: text perplexity {results['dailytalk']['dailytalk_text_perplexity']:.2f}")
    (arguments.output / "tasks.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
