"""Narrated books in the layout of LibriLight: six Austen novels read aloud by the neural voice of `hibari-tts`.

What is different: there is one voice in the package, so speakers are made of it. A speaker's pitch and vocal tract come
from resampling what the voice says, the tempo from the synthesis. Four novels are for training and two are held out
whole, so that no held-out sentence occurs in training, by any reader. Every chapter is planned before any is
read, so the audio depends on the seed and the sizes and not on the number of processes.
"""

import json
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from hibari import Hibari
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..codec.audio import SAMPLE_RATE_HZ
from ..data.workers import run_jobs
from ..whole_files import replacing, write_whole
from .debian_packages import TITLES

CHAPTER_SEC = (300.0, 720.0)
HELDOUT_CHAPTER_SEC = 420.0
PAUSE_SEC = (0.35, 0.7)
ACTIVE_RMS = 0.07
PEAK = 0.98
LEVEL_BLOCK_SAMPLES = 480

HELDOUT_NOVELS = ("northangerabbey", "persuasion")
TRAIN_NOVELS = tuple(novel for novel in TITLES if novel not in HELDOUT_NOVELS)


@dataclass(frozen=True)
class Voice:
    """One speaker made of the package's voice.

    Attributes:
        pitch_ratio: pitch and vocal tract relative to the package's voice; 0.8 is lower, 1.2 higher.
        speed: what the synthesiser is asked for, which is the tempo only roughly, and before the change of pitch.
        chars_per_sec: what this speaker reads in a second of a novel, pauses included, as measured.
    """

    name: str
    pitch_ratio: float
    speed: float
    chars_per_sec: float

    def say(self, text: str, seed: int) -> NDArray[np.float32]:
        """Speak `text`; returns [samples] at 24,000 Hz, the same for the same seed. Empty when nothing is sayable."""
        spoken = _engine()(text, speed=self.speed, seed=seed)
        if self.pitch_ratio == 1.0 or not len(spoken):
            return spoken
        return soxr.resample(spoken, SAMPLE_RATE_HZ * self.pitch_ratio, SAMPLE_RATE_HZ)


TRAIN_VOICES = (
    Voice("reader_100", 1.00, 1.00, 15.7),
    Voice("reader_076", 0.76, 1.30, 14.0),
    Voice("reader_120", 1.20, 0.85, 16.8),
    Voice("reader_088", 0.88, 1.25, 15.9),
    Voice("reader_106", 1.06, 0.90, 15.9),
    Voice("reader_082", 0.82, 1.30, 15.1),
    Voice("reader_113", 1.13, 0.80, 14.3),
    Voice("reader_094", 0.94, 1.10, 15.2),
)
UNSEEN_VOICES = (
    Voice("reader_079", 0.79, 1.25, 14.3),
    Voice("reader_110", 1.10, 0.95, 16.9),
    Voice("reader_091", 0.91, 1.00, 14.3),
    Voice("reader_116", 1.16, 0.85, 16.3),
)


@dataclass(frozen=True)
class Chapter:
    """A chapter to be read: its split, reader and text. `number` counts from 1 within one speaker's book."""

    split: str
    novel: str
    number: int
    voice: Voice
    paragraphs: tuple[str, ...]
    seed: int

    def path(self, librilight_dir: Path) -> Path:
        """Return the path of the audio: `<split>/<speaker>/<book>/<chapter>.flac`."""
        chapter_name = f"{self.novel}_{self.number:03d}.flac"
        return librilight_dir / self.split / self.voice.name / self.novel / chapter_name


@cache
def _engine() -> Hibari:
    """The synthesiser, one for each process."""
    return Hibari(threads=1)


def plan_books(novels: dict[str, list[str]], train_sec: float, heldout_sec: float, seed: int) -> list[Chapter]:
    """Decide which chapter is read by whom. Held-out chapters alternate between speakers seen and unseen in training.

    Raises:
        ValueError: a length is negative or not finite, or asks for more than the novels of its part hold.
    """
    for name, length_sec in (("train_sec", train_sec), ("heldout_sec", heldout_sec)):
        if not 0 <= length_sec < float("inf"):
            raise ValueError(f"{name} is {length_sec}, but 0 or more seconds can be read; give 0 for none")
    heldout_voices = [voice for pair in zip(TRAIN_VOICES[:4], UNSEEN_VOICES, strict=True) for voice in pair]
    heldout_novels = [novel for novel in HELDOUT_NOVELS * 2 for _ in range(2)]
    return [
        *_plan_split(
            "train", _regions(novels, TRAIN_VOICES, TRAIN_NOVELS * 2), _train_lengths_sec(train_sec, seed), seed
        ),
        *_plan_split(
            "heldout", _regions(novels, heldout_voices, heldout_novels), _heldout_lengths_sec(heldout_sec), seed
        ),
    ]


def _train_lengths_sec(total_sec: float, seed: int) -> NDArray[np.float64]:
    """Lengths [chapters] of 5 to 12 minutes, or shorter below an hour so that several speakers have their turn."""
    if total_sec <= 0:
        return np.zeros(0)
    by_speaker = min(len(TRAIN_VOICES), max(2, round(total_sec / 45)))
    count = max(by_speaker, round(total_sec / np.mean(CHAPTER_SEC)))
    drawn = np.random.default_rng([seed, 1]).uniform(*CHAPTER_SEC, size=count)
    return drawn * total_sec / drawn.sum()


def _heldout_lengths_sec(total_sec: float) -> NDArray[np.float64]:
    """Equal lengths [chapters] of about 7 minutes, at least two chapters: one seen speaker, one unseen."""
    count = max(2, int(total_sec // HELDOUT_CHAPTER_SEC)) if total_sec > 0 else 0
    return np.full(count, total_sec / max(count, 1))


Region = tuple[Voice, str, list[str]]


def _regions(novels: dict[str, list[str]], voices: Sequence[Voice], names: Sequence[str]) -> list[Region]:
    """Give each voice its own part of the novel named beside it; a novel named n times is cut into n parts."""
    regions: list[Region] = []
    for place, (voice, name) in enumerate(zip(voices, names, strict=True)):
        part, parts = list(names[:place]).count(name), list(names).count(name)
        first, last = (len(novels[name]) * edge // parts for edge in (part, part + 1))
        regions.append((voice, name, novels[name][first:last]))
    return regions


def _plan_split(split: str, regions: list[Region], lengths_sec: NDArray[np.float64], seed: int) -> list[Chapter]:
    """Take chapters of the lengths [chapters] from the regions in turn; a region too short for the next one is left."""
    chapters: list[Chapter] = []
    waiting = deque((voice, novel, paragraphs, 1) for voice, novel, paragraphs in regions)
    for length_sec in lengths_sec:
        while waiting and not _passage_end(waiting[0][2], length_sec * waiting[0][0].chars_per_sec):
            waiting.popleft()
        if not waiting:
            raise ValueError(
                f"{lengths_sec.sum() / 3600:.2f} hours of {split} books are asked for, but its novels end after "
                f"{lengths_sec[: len(chapters)].sum() / 3600:.2f}; ask for fewer hours"
            )
        voice, novel, paragraphs, number = waiting.popleft()
        end = _passage_end(paragraphs, length_sec * voice.chars_per_sec)
        chapter_seed = zlib.crc32(f"{seed}/{split}/{voice.name}/{novel}/{number}".encode())
        chapters.append(Chapter(split, novel, number, voice, tuple(paragraphs[:end]), chapter_seed))
        waiting.append((voice, novel, paragraphs[end:], number + 1))
    return chapters


def _passage_end(paragraphs: list[str], chars: float) -> int:
    """How many paragraphs hold at least so many characters; 0 when all of them hold fewer."""
    totals = np.cumsum([len(paragraph) for paragraph in paragraphs])
    return int(np.searchsorted(totals, chars)) + 1 if len(totals) and totals[-1] >= chars else 0


def read_chapter(chapter: Chapter, librilight_dir: Path, package: str) -> dict[str, Any]:
    """Synthesise one chapter and write its FLAC and JSON; returns the JSON. `package` says where the text is from."""
    rng = np.random.default_rng(chapter.seed)
    parts: list[NDArray[np.float32]] = []
    for paragraph in chapter.paragraphs:
        parts.append(chapter.voice.say(paragraph, int(rng.integers(2**31))))
        parts.append(np.zeros(int(rng.uniform(*PAUSE_SEC) * SAMPLE_RATE_HZ), np.float32))
    metadata = {
        "speaker": chapter.voice.name,
        "book_meta": {
            "id": chapter.novel,
            "title": TITLES[chapter.novel],
            "author": "Jane Austen",
            "language": "English",
        },
        "snr": None,
        "source": {
            "text": package,
            "speech": f"hibari-tts {version('hibari-tts')}",
            "voice": f"heart, pitch {chapter.voice.pitch_ratio:g}, speed {chapter.voice.speed:g}",
            "licence": "text public domain, voice Apache-2.0",
        },
        "paragraphs": chapter.paragraphs,
    }
    return write_recording(chapter.path(librilight_dir), np.concatenate(parts), metadata)


def build_books(chapters: list[Chapter], librilight_dir: Path, package: str, num_proc: int) -> list[dict[str, Any]]:
    """Read all chapters that are not there yet; returns the JSON of every chapter in the order given."""
    jobs = [(chapter.path(librilight_dir), (chapter, librilight_dir, package)) for chapter in chapters]
    return build_missing(read_chapter, jobs, num_proc, "books")


def write_recording(flac_path: Path, samples: NDArray[np.float32], metadata: dict[str, Any]) -> dict[str, Any]:
    """Write mono audio [samples] as 16-bit FLAC at 24,000 Hz and LibriLight's JSON beside it, the JSON last.

    The loudness is made the same for all recordings. Returns the metadata with `duration_sec` added.
    """
    flac_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(flac_path) as beside:
        soundfile.write(beside, even_loudness(samples), SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    complete = metadata | {"duration_sec": len(samples) / SAMPLE_RATE_HZ}
    write_text(flac_path.with_suffix(".json"), json.dumps(complete, indent=1) + "\n")
    return complete


def even_loudness(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale speech [samples] to a common level of its voiced parts, less where a peak would be cut off."""
    peak = float(np.abs(samples).max(initial=0.0))
    if peak == 0.0:
        return samples
    blocks = np.pad(samples, (0, -len(samples) % LEVEL_BLOCK_SAMPLES)).reshape(-1, LEVEL_BLOCK_SAMPLES)
    block_rms = np.sqrt(np.mean(np.square(blocks), axis=1))
    active_rms = float(np.sqrt(np.mean(np.square(block_rms[block_rms > 0.1 * block_rms.max()]))))
    return samples * np.float32(min(ACTIVE_RMS / active_rms, PEAK / peak))


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that it is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def build_missing(
    build: Callable[..., dict[str, Any]], jobs: Sequence[tuple[Path, tuple[Any, ...]]], num_proc: int, stage: str
) -> list[dict[str, Any]]:
    """Run `build(*arguments)` for every (path, arguments) whose audio or JSON is missing, in `num_proc` processes.

    Returns the JSON of every job in the order given, read back for those that were there.

    Raises:
        ValueError: `num_proc` is below 1.
    """
    missing = [(path, arguments) for path, arguments in jobs if not is_complete(path)]
    with tqdm(total=len(jobs), initial=len(jobs) - len(missing), desc=stage, unit="file") as bar:
        for _ in run_jobs(build, [arguments for _, arguments in missing], num_proc, bar):
            pass
    return [json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path, _ in jobs]


def is_complete(audio_path: Path) -> bool:
    """Whether the audio and the JSON beside it, which is written last, are both there."""
    return audio_path.is_file() and audio_path.with_suffix(".json").is_file()
