"""The demo as a list of stages: which commands each runs, and which number of its result goes into the closing table.

A stage is the verbs of `hf-moshi-ttt` that a user would type; a finished one leaves a JSON in `stages/` and is not run
again. The first one shows the memory at work, on a task that only a memory solves; the others make, train and measure
a model on real audio, which is too young to show it.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..codec.text_stream import load_text_tokenizer
from ..data.codes import load_codes
from .lanes import Command, Lanes, Run

RECALL, EVALUATION = "recall", "evaluate, fine-tune beside it"


@dataclass(frozen=True)
class DemoSize:
    """How much of everything the demo makes; `train_changes` are settings of all training runs on audio."""

    recall_steps: int
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
    "full": DemoSize(300, 1.2, 30, 20, 20, 50, 15, 250, (1000, 2000, 4000), 60, 5),
    # For tests: every stage with real code paths in about two minutes, and no meaningful result.
    "smoke": DemoSize(
        2,
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
        return [_recall_stage(self), *data_stages(self), *_training_stages(self), *_result_stages(self)]

    @property
    def codec_path(self) -> str:
        """The codec that is used."""
        return self.codec or str(self.root / "codec")

    @property
    def tokenizer_path(self) -> str:
        """The text tokenizer that is used."""
        return self.text_tokenizer or str(self.root / "tokenizer.model")


def _recall_stage(demo: Demo) -> Stage:
    output = demo.root / "recall"
    command = ["recall", "--task", "motif", "--arms", "static,ttt", "--output", str(output)]
    steps = ["--steps", str(demo.size.recall_steps)]
    return Stage(RECALL, [[*command, *steps]], lambda: recall_line(_json(output / "recall.json")), output)


def data_stages(demo: Demo) -> list[Stage]:
    """The stages from nothing to the codes of every corpus, with a codec and a text tokenizer."""
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
        Stage(
            "codec and tokenizer", _fitting(demo), lambda: _codec_quality(demo), Path(demo.codec_path), parallel=True
        ),
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
    control = "config.ttt.learner=static"
    return [
        Stage(
            "pre-train, stopped half-way",
            [pretrain("pretrain", stop, resume), pretrain("static", stop, resume, control)],
            lambda: _losses(root / "pretrain" / f"checkpoint-{half}", "audio_loss"),
            root / "pretrain" / f"checkpoint-{half}",
            parallel=True,
        ),
        Stage(
            "pre-train, resumed",
            [pretrain("pretrain", resume), pretrain("static", resume, control)],
            lambda: _losses(root / "pretrain", "audio_loss"),
            root / "pretrain",
            parallel=True,
        ),
    ]


def _result_stages(demo: Demo) -> list[Stage]:
    root, size = demo.root, demo.size
    heldout, results = root / "codes" / "librilight_heldout", root / "results"
    evaluate = [
        "evaluate", "--model", f"ttt={root / 'pretrain'}", "--output", str(results),
        "--compare", f"static={root / 'static'},window_only,no_reset",
        f"librilight_codes={heldout}", "librilight_evaluation_mode=chapters",
        f"positions_frames={list(size.positions)}", f"bin_frames={size.bin_frames}",
    ]  # fmt: skip
    finetune = [
        "train", "demo_finetune", f"model_name_or_path={root / 'pretrain'}",
        f"train_codes={root / 'codes' / 'dailytalk'}", f"output_dir={root / 'finetune'}",
        f"max_steps={size.finetune_steps}", *size.train_changes,
    ]  # fmt: skip
    generate = [
        "generate", str(root / "pretrain"), "--codes", str(heldout), "--output", str(results / "continuation.wav"),
        "--prompt-sec", str(size.prompt_sec), "--new-sec", str(size.new_sec),
    ]  # fmt: skip
    return [
        Stage(
            EVALUATION,
            [evaluate, finetune],
            lambda: long_context_line(_json(results / "results.json")["comparisons"]["static"]),
            results / "loss_by_position.png",
            parallel=True,
        ),
        Stage(
            "continue a prompt",
            [generate],
            lambda: f"{_json(results / 'continuation.json')['frames_per_second']:.1f} frames/s (real time is 12.5)",
            results / "continuation.wav",
        ),
    ]


def recall_line(recall: dict[str, Any]) -> str:
    """What `recall.json` says of the arm `ttt` beside its control at the last hearing of the motif."""
    last = {run["arm"]: run["tests"]["motif"]["hearings"][-1] for run in recall["runs"]}
    ttt, static = last["ttt"], last["static"]
    said = ", ".join(f"{name} {one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for name, one in last.items())
    verdict = "the memory recalls" if ttt["high"] < static["low"] else "no recall yet"
    return f"{verdict}: {said} nats when a motif is heard again (chance {recall['chance_nats']:.2f})"


def long_context_line(comparison: dict[str, Any]) -> str:
    """What a comparison with the control says: nothing where its interval holds 0, and a number, no verdict, elsewhere.

    The interval is over recordings; one seed is trained, so the luck of training is not in it.
    """
    beyond, said = comparison.get("beyond_window"), comparison["verdict"].partition(": ")[2]
    if beyond is None or beyond["low"] is None or beyond["low"] <= 0 <= beyond["high"]:
        return f"long context: too young to tell: {said} against static"
    return f"long context: {said} against static, of one seed: the luck of training is not in the interval"


def run_stages(stages: Sequence[Stage], root: Path, say: Callable[[str], None], run: Run) -> list[dict[str, Any]]:
    """Runs what is not done yet; returns a row `{stage, sec, cpu_sec, key_number, file}` for each stage.

    Args:
        run: runs a command line of `hf-moshi-ttt`.

    Raises:
        CommandError: a command failed; its stage runs again next time.
    """
    rows = []
    with Lanes(run) as lanes:
        for number, stage in enumerate(stages, start=1):
            done = root / "stages" / f"{stage.name.replace(' ', '_').replace(',', '')}.json"
            if done.is_file():
                say(f"[{number}/{len(stages)}] {stage.name}: done before")
            else:
                say(f"[{number}/{len(stages)}] {stage.name}")
                start, cpu_start = time.monotonic(), lanes.cpu_sec
                _run_commands(stage, root, lanes)
                row = {"stage": stage.name, "sec": time.monotonic() - start, "cpu_sec": lanes.cpu_sec - cpu_start}
                row |= {"key_number": stage.key_number(), "file": str(stage.file)}
                done.parent.mkdir(parents=True, exist_ok=True)
                done.write_text(json.dumps(row), encoding="utf-8")
                say(f"    {row['key_number']}")
            rows.append(_json(done))
    return rows


def _run_commands(stage: Stage, root: Path, lanes: Lanes) -> None:
    if not stage.parallel:
        lanes.run_in_order(stage.commands)
        return
    lanes.run_side_by_side(
        stage.commands, lambda number: root / "logs" / f"{stage.name.replace(' ', '_')}_{number}.log"
    )


def closing_lines(rows: Sequence[dict[str, Any]]) -> str:
    """What the demo says of memory: at work in the first stage, and in the young model of the evaluation."""
    said = {row["stage"]: row["key_number"] for row in rows}
    return "\n".join(said[stage] for stage in (RECALL, EVALUATION))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The closing table: stage, wall and processor time, key number, file."""
    lines = [("stage", "time", "CPU", "key number", "file")]
    lines += [(row["stage"], *_seconds([row]), row["key_number"], row["file"]) for row in rows]
    lines.append(("total", *_seconds(rows), "", ""))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _seconds(rows: Sequence[dict[str, Any]]) -> tuple[str, str]:
    wall, cpu = (sum(row.get(key, 0.0) for row in rows) for key in ("sec", "cpu_sec"))
    return f"{wall:.0f} s", f"{cpu:.0f} s"


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
