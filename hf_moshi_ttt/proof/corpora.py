"""Corpora beside the demo's own, as stages: programmes in which lines return, and recordings in other forms."""

import json
from pathlib import Path
from typing import Any

from ..demo.stages import Stage

TRAIN_FORMS, TEST_FORMS = (
    "phase_0.5,phase_0.25",
    "same,phase_0.5,noise_40db,noise_30db,noise_20db,noise_10db,rate_0.95,rate_0.9",
)
MOST_RECORDINGS = 8
PROGRAMMES: dict[str, list[str]] = {
    "programmes": [],
    "programmes_clean": ["--no-rooms"],
    "programmes_on_frames": ["--no-rooms", "--on-frames"],
    "programmes_spoken_anew": ["--no-rooms", "--spread", "0.05"],
    "programmes_two_voices": ["--no-rooms", "--voices", "2"],
}
"""Corpora in which lines are said again, with the options of `make-programmes` that make them."""


def variants_file(codes: Path, corpus: str, split: str) -> Path:
    """The file with recordings of a corpus in other forms."""
    return codes / f"{corpus}_{split}_variants.safetensors"


def audio_folder(data: Path, corpus: str) -> Path:
    """The folder of a corpus, with the folders `train` and `heldout`."""
    return data / ("corpus" if corpus == "librilight" else corpus) / "librilight"


def programme_stages(data: Path, codec: str, corpus: str, train_hours: float, eval_minutes: float) -> list[Stage]:
    """Speaks one of the corpora of `PROGRAMMES` and encodes it with a codec that is there."""
    folder, codes = data / corpus, data / "codes"
    options = ["--train-hours", str(train_hours), "--eval-minutes", str(eval_minutes), *PROGRAMMES[corpus]]
    encoding = [
        ["prepare", str(audio_folder(data, corpus) / split), "--codec", codec,
         "--output", str(codes / f"{corpus}_{split}")]
        for split in ("train", "heldout")
    ]  # fmt: skip
    return [
        Stage(corpus, [["make-programmes", str(folder), *options]], lambda: _spoken(folder), folder / "corpus.json"),
        Stage(f"encode {corpus}", encoding, lambda: "train and heldout", codes, parallel=True),
    ]


def variant_stage(data: Path, codec: str, corpus: str) -> Stage:
    """Encodes recordings of a corpus in other forms, some to train on and some held out."""
    commands = []
    for split, forms in (("train", TRAIN_FORMS), ("heldout", TEST_FORMS)):
        options = ["--codec", codec, "--forms", forms, "--most", str(MOST_RECORDINGS)]
        output = variants_file(data / "codes", corpus, split)
        audio = audio_folder(data, corpus) / split
        commands.append(["make-variants", str(audio), *options, "--output", str(output)])
    return Stage(f"variants of {corpus}", commands, lambda: TEST_FORMS, data / "codes", parallel=True)


def _spoken(folder: Path) -> str:
    made: dict[str, Any] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))["splits"]
    return ", ".join(f"{split} {found['hours']:.2f} h" for split, found in made.items())
