"""The demo as a list of stages: which commands each runs, and which number of its result goes into the closing table.

A stage is the commands a user would type; a finished one leaves a JSON in `stages/` and is not run again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.codes import load_codes

Command = Sequence[str]


@dataclass(frozen=True)
class DemoSize:
    """How much of everything the demo makes; `train_changes` are settings of both training runs."""

    train_hours: float
    eval_minutes: float
    conversations: int
    codec_minutes: float
    pretrain_steps: int
    finetune_steps: int
    bin_frames: int
    positions: tuple[int, ...]
    prompt_sec: float
    new_sec: float
    train_changes: tuple[str, ...] = ()


SIZES = {
    "full": DemoSize(5.0, 60, 60, 90, 110, 40, 250, (1000, 2000, 4000, 5000), 120, 10),
    # For tests: every stage with real code paths in about two minutes, and no result worth reading.
    "smoke": DemoSize(
        0.1,
        3,
        4,
        6,
        4,
        2,
        100,
        (200, 500),
        10,
        2,
        ("duration_sec=4", "per_device_train_batch_size=2", "logging_steps=1"),
    ),
}


@dataclass(frozen=True)
class Stage:
    """One stage: commands (side by side if `parallel`), the number for the table, and the file to look at."""

    name: str
    commands: Sequence[Command]
    key_number: Callable[[], str]
    file: Path
    parallel: bool = False


def demo_stages(root: Path, size: DemoSize) -> list[Stage]:
    """The stages of the demo, all below `root`."""
    return [*_data_stages(root, size), *_training_stages(root, size), *_result_stages(root, size)]


def _data_stages(root: Path, size: DemoSize) -> list[Stage]:
    corpus, codec, tokenizer = root / "corpus", root / "codec", root / "tokenizer.model"
    hours = ["--train-hours", str(size.train_hours), "--eval-minutes", str(size.eval_minutes)]
    make_corpus = ["make_corpus.py", str(corpus), *hours, "--conversations", str(size.conversations)]
    indexing = [
        ["create_librilight_index.py", str(corpus / "librilight" / split), "--output", str(root / f"{split}.jsonl")]
        for split in ("train", "heldout")
    ]
    fit_codec = ["fit_codec.py", str(corpus / "librilight" / "train"), "--output", str(codec)]
    train_tokenizer = ["train_text_tokenizer.py", str(corpus / "text" / "novels.txt"), "--output", str(tokenizer)]

    def encode(index: Path, kind: str, name: str) -> Command:
        options = ["--kind", kind, "--codec", str(codec), "--output", str(root / "codes" / name)]
        return [
            "prepare_data.py",
            str(index),
            *options,
            *(["--text-tokenizer", str(tokenizer)] if kind == "dailytalk" else []),
        ]

    encoding = [
        encode(root / "train.jsonl", "librilight", "librilight_train"),
        encode(root / "heldout.jsonl", "librilight", "librilight_heldout"),
        encode(corpus / "dailytalk" / "dailytalk.jsonl", "dailytalk", "dailytalk"),
    ]
    return [
        Stage("corpus", [make_corpus], lambda: _corpus_hours(corpus), corpus / "corpus.json"),
        Stage("index", indexing, lambda: _count_lines(root), root / "train.jsonl"),
        Stage(
            "codec and tokenizer",
            [[*fit_codec, "--max-minutes", str(size.codec_minutes)], train_tokenizer],
            lambda: f"log-mel variance kept {_json(codec / 'quality.json')['variance_kept']:.3f}",
            codec,
        ),
        Stage("encode", encoding, lambda: _encoded(root / "codes"), root / "codes", parallel=True),
    ]


def _training_stages(root: Path, size: DemoSize) -> list[Stage]:
    half, steps = size.pretrain_steps // 2, f"max_steps={size.pretrain_steps}"
    codes = f"train_codes={root / 'codes' / 'librilight_train'}"

    def pretrain(name: str, *changes: str) -> Command:
        settings = [codes, steps, f"output_dir={root / name}", *size.train_changes, *changes]
        return ["train.py", "configs/demo_pretrain.yaml", *settings]

    stop = f"stop_at_step={half}"
    resume = [f"resume_from_checkpoint={root / 'pretrain' / f'checkpoint-{half}'}"]
    finetune = [
        "train.py", "configs/demo_finetune.yaml", f"model_name_or_path={root / 'pretrain'}",
        f"train_codes={root / 'codes' / 'dailytalk'}", f"output_dir={root / 'finetune'}",
        f"max_steps={size.finetune_steps}", *size.train_changes,
    ]  # fmt: skip
    return [
        Stage(
            "pre-train, stopped half-way",
            [pretrain("pretrain", stop), pretrain("no_ttt", stop, "config.ttt=null")],
            lambda: _losses(root / "pretrain" / f"checkpoint-{half}", "audio_loss"),
            root / "pretrain" / f"checkpoint-{half}",
            parallel=True,
        ),
        Stage(
            "pre-train, resumed",
            [
                pretrain("pretrain", *resume),
                pretrain("no_ttt", resume[0].replace("/pretrain/", "/no_ttt/"), "config.ttt=null"),
            ],
            lambda: _losses(root / "pretrain", "audio_loss"),
            root / "pretrain",
            parallel=True,
        ),
        Stage("fine-tune", [finetune], lambda: _losses(root / "finetune", "text_loss"), root / "finetune"),
    ]


def _result_stages(root: Path, size: DemoSize) -> list[Stage]:
    heldout, results = root / "codes" / "librilight_heldout", root / "results"
    evaluate = [
        "evaluate_long_context.py", f"ttt={root / 'pretrain'}", f"no_ttt={root / 'no_ttt'}",
        "--codes", str(heldout), "--output", str(results), "--bin-frames", str(size.bin_frames),
        "--positions", *map(str, size.positions),
    ]  # fmt: skip
    generate = [
        "generate.py", str(root / "pretrain"), "--codes", str(heldout), "--output", str(results / "continuation.wav"),
        "--prompt-sec", str(size.prompt_sec), "--new-sec", str(size.new_sec),
    ]  # fmt: skip
    return [
        Stage(
            "evaluate",
            [evaluate],
            lambda: _json(results / "results.json")["differences"]["ttt"]["verdict"],
            results / "loss_by_position.png",
        ),
        Stage(
            "continue a prompt",
            [generate],
            lambda: f"{_json(results / 'continuation.json')['frames_per_second']:.1f} frames/s (real time is 12.5)",
            results / "continuation.wav",
        ),
    ]


def run_stages(stages: Sequence[Stage], root: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Runs what is not done yet; returns a row `{stage, sec, key_number, file}` for each stage.

    Raises:
        subprocess.CalledProcessError: a command failed; its stage runs again next time.
    """
    rows = []
    for number, stage in enumerate(stages, start=1):
        done = root / "stages" / f"{stage.name.replace(' ', '_').replace(',', '')}.json"
        if done.is_file():
            say(f"[{number}/{len(stages)}] {stage.name}: done before")
        else:
            say(f"[{number}/{len(stages)}] {stage.name}")
            start = time.monotonic()
            _run_commands(stage, root)
            row = {"stage": stage.name, "sec": time.monotonic() - start}
            done.parent.mkdir(parents=True, exist_ok=True)
            done.write_text(
                json.dumps({**row, "key_number": stage.key_number(), "file": str(stage.file)}), encoding="utf-8"
            )
        rows.append(_json(done))
    return rows


def _run_commands(stage: Stage, root: Path) -> None:
    """One after the other; or all at once with one thread each, the first on the screen and the others into logs."""
    full = [[sys.executable, f"scripts/{command[0]}", *command[1:]] for command in stage.commands]
    if not stage.parallel:
        for command in full:
            subprocess.run(command, check=True)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    logs = root / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    running = [subprocess.Popen(full[0], env=environment)]
    for index, command in enumerate(full[1:], start=1):
        with (logs / f"{stage.name.replace(' ', '_')}_{index}.log").open("w") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in running]
    for command, code in zip(full, codes, strict=True):
        if code:
            raise subprocess.CalledProcessError(code, command, output=f"see {logs}")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The closing table: stage, time, key number, file."""
    lines = [("stage", "time", "key number", "file")]
    lines += [(row["stage"], f"{row['sec']:.0f} s", row["key_number"], row["file"]) for row in rows]
    lines.append(("total", f"{sum(row['sec'] for row in rows):.0f} s", "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _corpus_hours(corpus: Path) -> str:
    splits = _json(corpus / "corpus.json")["splits"]
    return ", ".join(f"{name} {split['hours']:.2f} h in {split['files']} files" for name, split in splits.items())


def _count_lines(root: Path) -> str:
    counts = [len((root / f"{split}.jsonl").read_text().splitlines()) for split in ("train", "heldout")]
    return f"{counts[0]} files to train on, {counts[1]} held out"


def _encoded(codes: Path) -> str:
    hours = {name.name: sum(load_codes(name)[0]["duration_sec"]) / 3600 for name in sorted(codes.iterdir())}
    return ", ".join(f"{name} {value:.2f} h" for name, value in hours.items())


def _losses(run: Path, name: str) -> str:
    history = _json(run / "trainer_state.json")["log_history"]
    logged = [(entry["step"], entry[name]) for entry in history if name in entry]
    (first_step, first), (last_step, last) = logged[0], logged[-1]
    return f"{name.replace('_', ' ')} {first:.2f} at step {first_step}, {last:.2f} at step {last_step}"
