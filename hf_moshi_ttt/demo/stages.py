"""The demo as a list of stages: which commands each runs, and which number of its result goes into the closing table.

A stage is the verbs of `hf-moshi-ttt` that a user would type; a finished one leaves a JSON in `stages/` and is not run
again.
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

from ..codec.text_stream import load_text_tokenizer
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
    "full": DemoSize(5.0, 60, 60, 60, 220, 40, 250, (1000, 2000, 4000, 5000), 120, 10),
    # For tests: every stage with real code paths in about two minutes, and no meaningful result.
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


@dataclass(frozen=True)
class Demo:
    """The demo's folder and what it is made with.

    Args:
        codec: name or path of a codec such as `kyutai/mimi`, or None to fit a small one.
        text_tokenizer: path of a SentencePiece model such as Kyutai's, or None to train a small one.
    """

    root: Path
    size: DemoSize
    codec: str | None = None
    text_tokenizer: str | None = None

    def stages(self) -> list[Stage]:
        """The stages in order."""
        return [*_data_stages(self), *_training_stages(self), *_result_stages(self)]

    @property
    def codec_path(self) -> str:
        """The codec that is used."""
        return self.codec or str(self.root / "codec")

    @property
    def tokenizer_path(self) -> str:
        """The text tokenizer that is used."""
        return self.text_tokenizer or str(self.root / "tokenizer.model")


def _data_stages(demo: Demo) -> list[Stage]:
    root, size = demo.root, demo.size
    corpus, librilight = root / "corpus", root / "corpus" / "librilight"
    make_corpus = [
        "make-corpus", str(corpus), "--train-hours", str(size.train_hours),
        "--eval-minutes", str(size.eval_minutes), "--conversations", str(size.conversations),
    ]  # fmt: skip
    indexing = [
        ["index", str(librilight / split), "--output", str(root / f"{split}.jsonl")] for split in ("train", "heldout")
    ]
    encoding = [
        _encode(demo, root / "train.jsonl", "librilight", "librilight_train"),
        _encode(demo, root / "heldout.jsonl", "librilight", "librilight_heldout"),
        _encode(demo, corpus / "dailytalk" / "dailytalk.jsonl", "dailytalk", "dailytalk"),
    ]
    return [
        Stage("corpus", [make_corpus], lambda: _corpus_hours(corpus), corpus / "corpus.json"),
        Stage("index", indexing, lambda: _count_lines(root), root / "train.jsonl"),
        Stage("codec and tokenizer", _fitting(demo), lambda: _codec_quality(demo), Path(demo.codec_path)),
        Stage("encode", encoding, lambda: _encoded(root / "codes"), root / "codes", parallel=True),
    ]


def _fitting(demo: Demo) -> list[Command]:
    corpus = demo.root / "corpus"
    commands: list[Command] = []
    if demo.codec is None:
        options = ["--output", demo.codec_path, "--max-minutes", str(demo.size.codec_minutes)]
        commands.append(["fit-codec", str(corpus / "librilight" / "train"), *options])
    if demo.text_tokenizer is None:
        text = str(corpus / "text" / "novels.txt")
        commands.append(["train-tokenizer", text, "--output", demo.tokenizer_path])
    return commands


def _encode(demo: Demo, index: Path, kind: str, name: str) -> Command:
    output = str(demo.root / "codes" / name)
    command = ["prepare", str(index), "--kind", kind, "--codec", demo.codec_path, "--output", output]
    return [*command, "--text-tokenizer", demo.tokenizer_path] if kind == "dailytalk" else command


def _training_stages(demo: Demo) -> list[Stage]:
    root, size = demo.root, demo.size
    half, steps = size.pretrain_steps // 2, f"max_steps={size.pretrain_steps}"
    codes = f"train_codes={root / 'codes' / 'librilight_train'}"

    vocabulary: list[str] = []
    if demo.text_tokenizer is not None:
        vocabulary = [f"config.text_vocab_size={load_text_tokenizer(demo.text_tokenizer).vocab_size()}"]

    def pretrain(name: str, *changes: str) -> Command:
        settings = [codes, steps, f"output_dir={root / name}", *vocabulary, *size.train_changes, *changes]
        return ["train", "demo_pretrain", *settings]

    stop, resume = f"stop_at_step={half}", "resume_from_checkpoint=true"
    finetune = [
        "train", "demo_finetune", f"model_name_or_path={root / 'pretrain'}",
        f"train_codes={root / 'codes' / 'dailytalk'}", f"output_dir={root / 'finetune'}",
        f"max_steps={size.finetune_steps}", *size.train_changes,
    ]  # fmt: skip
    return [
        Stage(
            "pre-train, stopped half-way",
            [pretrain("pretrain", stop, resume), pretrain("no_ttt", stop, resume, "config.ttt=null")],
            lambda: _losses(root / "pretrain" / f"checkpoint-{half}", "audio_loss"),
            root / "pretrain" / f"checkpoint-{half}",
            parallel=True,
        ),
        Stage(
            "pre-train, resumed",
            [pretrain("pretrain", resume), pretrain("no_ttt", resume, "config.ttt=null")],
            lambda: _losses(root / "pretrain", "audio_loss"),
            root / "pretrain",
            parallel=True,
        ),
        Stage("fine-tune", [finetune], lambda: _losses(root / "finetune", "text_loss"), root / "finetune"),
    ]


def _result_stages(demo: Demo) -> list[Stage]:
    root, size = demo.root, demo.size
    heldout, results = root / "codes" / "librilight_heldout", root / "results"
    evaluate = [
        "evaluate", "--model", f"ttt={root / 'pretrain'}", "--output", str(results),
        "--compare", f"no_ttt={root / 'no_ttt'},window_only,no_reset",
        f"librilight_codes={heldout}", "librilight_evaluation_mode=chapters",
        f"positions_frames={list(size.positions)}", f"bin_frames={size.bin_frames}",
    ]  # fmt: skip
    generate = [
        "generate", str(root / "pretrain"), "--codes", str(heldout), "--output", str(results / "continuation.wav"),
        "--prompt-sec", str(size.prompt_sec), "--new-sec", str(size.new_sec),
    ]  # fmt: skip
    return [
        Stage(
            "evaluate",
            [evaluate],
            lambda: _json(results / "results.json")["comparisons"]["no_ttt"]["verdict"],
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
    """In sequence; or in parallel with one thread each, the first printing to the screen and the others into logs."""
    full = [[sys.executable, "-m", "hf_moshi_ttt.commands.console", *command] for command in stage.commands]
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
    counts = [(root / f"{split}.jsonl").read_bytes().count(b"\n") for split in ("train", "heldout")]
    return f"{counts[0]} files to train on, {counts[1]} held out"


def _codec_quality(demo: Demo) -> str:
    if demo.codec is not None:
        return f"{demo.codec} as given"
    return f"log-mel variance kept {_json(Path(demo.codec_path) / 'quality.json')['variance_kept']:.3f}"


def _encoded(codes: Path) -> str:
    hours = {name.name: sum(load_codes(name)[0]["duration_sec"][:]) / 3600 for name in sorted(codes.iterdir())}
    return ", ".join(f"{name} {value:.2f} h" for name, value in hours.items())


def _losses(run: Path, name: str) -> str:
    history = _json(run / "trainer_state.json")["log_history"]
    logged = [(entry["step"], entry[name]) for entry in history if name in entry]
    (first_step, first), (last_step, last) = logged[0], logged[-1]
    return f"{name.replace('_', ' ')} {first:.2f} at step {first_step}, {last:.2f} at step {last_step}"
