"""Narrated books in the layout of LibriLight: six Austen novels read aloud by the neural voice of `hibari-tts`.

What is different: there is one voice in the package, so speakers are made of it. A speaker's pitch and vocal tract come
from resampling what the voice says, the tempo from the synthesis. Four novels are for training and two are held out
whole, so that no held-out sentence is ever heard in training, whoever reads it. Every chapter is planned before any is
read, so the audio depends on the seed and the sizes and not on the number of processes.
"""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import rdata
import soundfile
import soxr
from hibari import Hibari
from numpy.typing import NDArray
from tqdm import tqdm

SAMPLE_RATE_HZ = 24_000
CHARS_PER_SEC = 15.9
"""Characters read in a second at tempo 1, pauses included, measured on these novels."""
CHAPTER_SEC = (300.0, 720.0)
HELDOUT_CHAPTER_SEC = 420.0
ACTIVE_RMS = 0.07
PEAK = 0.98

TITLES = {
    "emma": "Emma",
    "mansfieldpark": "Mansfield Park",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
}
HELDOUT_NOVELS = ("northangerabbey", "persuasion")
TRAIN_NOVELS = tuple(novel for novel in TITLES if novel not in HELDOUT_NOVELS)


@dataclass(frozen=True)
class Voice:
    """One speaker. Ratios are relative to the package's voice: 0.8 is lower or slower, 1.2 higher or faster."""

    name: str
    pitch_ratio: float
    tempo_ratio: float

    def say(self, text: str, seed: int) -> NDArray[np.float32]:
        """Speak `text`; returns [samples] at 24,000 Hz, the same for the same seed. Empty when nothing is sayable."""
        spoken = _engine()(text, speed=self.tempo_ratio / self.pitch_ratio, seed=seed)
        if self.pitch_ratio == 1.0 or not len(spoken):
            return spoken
        return soxr.resample(spoken, SAMPLE_RATE_HZ * self.pitch_ratio, SAMPLE_RATE_HZ)


TRAIN_VOICES = (
    Voice("reader_100", 1.00, 1.00),
    Voice("reader_076", 0.76, 0.92),
    Voice("reader_120", 1.20, 1.06),
    Voice("reader_088", 0.88, 1.10),
    Voice("reader_106", 1.06, 0.90),
    Voice("reader_082", 0.82, 1.02),
    Voice("reader_113", 1.13, 0.97),
    Voice("reader_094", 0.94, 0.95),
)
UNSEEN_VOICES = (Voice("reader_079", 0.79, 1.08), Voice("reader_110", 1.10, 1.12), Voice("reader_091", 0.91, 0.90))


@dataclass(frozen=True)
class Chapter:
    """A chapter to be read: its place, reader and text. `number` counts from 1 within one speaker's book."""

    split: str
    novel: str
    number: int
    voice: Voice
    paragraphs: tuple[str, ...]
    seed: int

    def path(self, librilight_dir: Path) -> Path:
        """Return where the audio lies: `<split>/<speaker>/<book>/<chapter>.flac`."""
        chapter_name = f"{self.novel}_{self.number:03d}.flac"
        return librilight_dir / self.split / self.voice.name / self.novel / chapter_name


@cache
def _engine() -> Hibari:
    """The synthesiser, one for each process."""
    return Hibari(threads=1)


def read_novels(package_dir: Path) -> dict[str, list[str]]:
    """Return the paragraphs of each novel, without title pages, headings and notes, from the unpacked Debian package.

    Raises:
        FileNotFoundError: the folder is not the unpacked `r-cran-janeaustenr`.
    """
    data_dir = package_dir / "usr/lib/R/site-library/janeaustenr/data"
    if not (data_dir / "Rdata.rdx").is_file():
        raise FileNotFoundError(f"{data_dir} has no 'Rdata.rdx'; unpack r-cran-janeaustenr into {package_dir}")
    index = _r_object((data_dir / "Rdata.rdx").read_bytes())
    database = (data_dir / "Rdata.rdb").read_bytes()
    novels = {}
    for novel in TITLES:
        offset, length = (int(number) for number in index["variables"][novel])
        # Each value is four bytes of length and a zlib stream.
        lines = _r_object(zlib.decompress(database[offset + 4 : offset + length]))
        novels[novel] = paragraphs_of(str(line) for line in lines)
    return novels


def _r_object(serialised: bytes) -> Any:
    return rdata.conversion.convert(rdata.parser.parse_data(serialised, extension=".rds"))


def paragraphs_of(lines: Iterable[str]) -> list[str]:
    """Join the lines of a novel into paragraphs, from its first chapter heading to its end."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    is_heading = [re.match(r"\s*(chapter|volume)\s+[\divxl]+\b", block, re.IGNORECASE) is not None for block in blocks]
    paragraphs = []
    for block, heading in list(zip(blocks, is_heading, strict=True))[is_heading.index(True) :]:
        text = " ".join(re.sub(r"\s*--\s*", "—", block.replace("_", "")).split())
        if text.lower() in ("the end", "finis"):
            break
        if not heading and re.search("[a-z]", text):
            paragraphs.append(text)
    return paragraphs


def plan_books(novels: dict[str, list[str]], train_sec: float, heldout_sec: float, seed: int) -> list[Chapter]:
    """Decide which chapter is read by whom. Held-out chapters alternate between speakers seen and unseen in training.

    Raises:
        ValueError: a part asks for more than its novels hold.
    """
    train_halves = [half for half in (0, 1) for _ in TRAIN_NOVELS]
    train_regions = [
        (voice, novel, _half(novels[novel], half))
        for voice, novel, half in zip(TRAIN_VOICES, TRAIN_NOVELS * 2, train_halves, strict=True)
    ]
    seen_and_unseen = [voice for pair in zip(TRAIN_VOICES, UNSEEN_VOICES, strict=False) for voice in pair]
    heldout_novels = [HELDOUT_NOVELS[place // 2 % 2] for place in range(len(seen_and_unseen))]
    heldout_parts = _shares(novels, heldout_novels)
    heldout_regions = list(zip(seen_and_unseen, heldout_novels, heldout_parts, strict=True))
    train_lengths = _train_lengths_sec(train_sec, np.random.default_rng([seed, 1]))
    heldout_count = max(2, int(heldout_sec // HELDOUT_CHAPTER_SEC))
    return [
        *_plan_split("train", train_regions, train_lengths, seed),
        *_plan_split("heldout", heldout_regions, [heldout_sec / heldout_count] * heldout_count, seed),
    ]


def _half(paragraphs: list[str], half: int) -> list[str]:
    middle = len(paragraphs) // 2
    return paragraphs[middle:] if half else paragraphs[:middle]


