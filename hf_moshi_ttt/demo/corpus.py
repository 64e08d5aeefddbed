"""The offline corpus: narrated books, human speech and two-channel conversations, with the text to train on."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .books import TRAIN_NOVELS, build_books, plan_books, write_text
from .conversations import build_conversations, load_exchanges, plan_conversations
from .debian_packages import NOVELS_PACKAGE, PROMPTS_PACKAGE, read_novels, unpack_package
from .human_speech import build_human_speech, human_seconds, list_prompts, plan_human_speech

PYTHON_PACKAGES = ("hibari-tts", "onnxruntime", "pocketsphinx", "chatterbot-corpus", "soxr", "soundfile", "av")


@dataclass(frozen=True)
class CorpusRequest:
    """How much of everything, and the seed that decides what is read by whom."""

    train_hours: float
    eval_minutes: float
    conversations: int
    seed: int


def make_corpus(out_dir: Path, request: CorpusRequest, num_proc: int) -> dict[str, Any]:
    """Makes what is missing of a corpus and writes corpus.json last; returns what it says.

    Raises:
        ValueError: the folder holds another corpus.
    """
    versions = {name: version(name) for name in PYTHON_PACKAGES}
    made = {"request": asdict(request), **build(out_dir, request, num_proc), "python_packages": versions}
    write_text(out_dir / "corpus.json", json.dumps(made, indent=1) + "\n")
    return made


def claim_folder(out_dir: Path, request: dict[str, Any]) -> None:
    """Refuses a folder that holds another corpus, as its held-out part may lie in this one's training part."""
    request_path = out_dir / "request.json"
    if request_path.is_file() and (former := json.loads(request_path.read_text(encoding="utf-8"))) != request:
        raise ValueError(f"{out_dir} holds a corpus made with {former}, asked for is {request}; give another folder")
    write_text(request_path, json.dumps(request) + "\n")


def write_novels_text(novels: dict[str, list[str]], path: Path) -> None:
    """Writes every paragraph of the training novels, read aloud here or not, one a line."""
    write_text(path, "".join(f"{paragraph}\n" for novel in TRAIN_NOVELS for paragraph in novels[novel]))


def build(out_dir: Path, request: CorpusRequest, num_proc: int) -> dict[str, Any]:
    """Makes everything in the output folder and returns what was made and how long each stage took in this run."""
    seed = request.seed
    novels_dir, prompts_dir = (unpack_package(name, out_dir / "packages") for name in (NOVELS_PACKAGE, PROMPTS_PACKAGE))
    sources = [folder.name.replace("_", " ") for folder in (novels_dir, prompts_dir)]
    novels, prompts = read_novels(novels_dir), list_prompts(prompts_dir)
    asked_sec = {"train": request.train_hours * 3600, "heldout": request.eval_minutes * 60}
    librilight_dir, dailytalk_dir = out_dir / "librilight", out_dir / "dailytalk"

    joined = plan_human_speech(prompts, librilight_dir, asked_sec["train"], asked_sec["heldout"], seed)
    to_read_sec = {split: asked_sec[split] - human_seconds(joined, split) for split in asked_sec}
    read = plan_books(novels, to_read_sec["train"], to_read_sec["heldout"], seed)
    conversations = plan_conversations(load_exchanges(), request.conversations, seed)
    claim_folder(out_dir, asdict(request))
    write_novels_text(novels, out_dir / "text" / "novels.txt")
    stages: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "human_speech": lambda: build_human_speech(joined, sources[1], num_proc),
        "books": lambda: build_books(read, librilight_dir, sources[0], num_proc),
        "conversations": lambda: build_conversations(conversations, dailytalk_dir, num_proc),
    }
    made: dict[str, Any] = {}
    for stage, run in stages.items():
        started_sec = time.perf_counter()
        records = run()
        made[stage] = {**summary_of(records), "build_sec": round(time.perf_counter() - started_sec, 1)}
    return {"splits": split_summary(librilight_dir), "stages": made, "debian_packages": sources}


def split_summary(librilight_dir: Path) -> dict[str, dict[str, float]]:
    """Counts what lies in each split, from the JSON beside each recording."""
    return {
        split: summary_of(
            [json.loads(path.read_text(encoding="utf-8")) for path in (librilight_dir / split).rglob("*.json")]
        )
        for split in ("train", "heldout")
    }


def summary_of(records: list[dict[str, Any]]) -> dict[str, float]:
    """Counts recordings."""
    return {"files": len(records), "hours": round(sum(record["duration_sec"] for record in records) / 3600, 4)}
