"""Real human speech in the layout of LibriLight: one narrator's telephone prompts, joined into chapters.

What is different: the prompts are the only recordings of a person, 27 minutes at 16 kHz in about 500 short files. They
are shuffled and joined with pauses. A prompt, also one that several files hold, is either in training or held out.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from .books import SAMPLE_RATE_HZ, build_missing, write_recording

SPEAKER = "human_narrator"
BOOK = "asterisk_prompts"
TRAIN_SHARE = 0.6
CHAPTER_SEC = {"train": 300.0, "heldout": 600.0}
PAUSE_SEC = 0.3
G722_BYTES_PER_SEC = 8_000
NOT_SPEECH = ("ascending-2tone", "descending-2tone", "beep", "beeperr", "tt-monkeys")


@dataclass(frozen=True)
class PromptChapter:
    """Prompt files that are joined, in this order, into the recording at `flac_path`."""

    flac_path: Path
    prompt_paths: tuple[Path, ...]


def list_prompts(package_dir: Path) -> list[Path]:
    """Return the files with speech in the unpacked Debian package, each content once, sorted by name.

    Raises:
        FileNotFoundError: the folder has no prompts.
    """
    by_content: dict[str, Path] = {}
    for path in sorted(package_dir.rglob("*.g722")):
        if path.stem not in NOT_SPEECH and path.parent.name != "silence":
            by_content.setdefault(sha256(path.read_bytes()).hexdigest(), path)
    if not by_content:
        raise FileNotFoundError(f"{package_dir} has no .g722 files; unpack asterisk-core-sounds-en-g722 there")
    return list(by_content.values())


def decode_prompt(path: Path) -> NDArray[np.float32]:
    """Decode a raw G.722 file to [samples] at 24,000 Hz, in [-1, 1]."""
    with av.open(str(path), format="g722") as container:
        pieces = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
        source_rate_hz = container.streams.audio[0].rate
    samples = np.concatenate(pieces).astype(np.float32) / 32768
    return soxr.resample(samples, source_rate_hz, SAMPLE_RATE_HZ)


def plan_human_speech(
    prompts: list[Path], librilight_dir: Path, train_sec: float, heldout_sec: float, seed: int
) -> list[PromptChapter]:
    """Split the prompts 60 to 40 and give each part at most half of the seconds that it asks for in all."""
    shuffled = [prompts[place] for place in np.random.default_rng([seed, 2]).permutation(len(prompts))]
    starts_sec = np.cumsum([0.0, *map(_joined_sec, shuffled)])
    boundary = int(np.searchsorted(starts_sec, TRAIN_SHARE * starts_sec[-1]))
    chapters: list[PromptChapter] = []
    for split, part, asked_sec in (
        ("train", shuffled[:boundary], train_sec),
        ("heldout", shuffled[boundary:], heldout_sec),
    ):
        chosen = _at_most(part, asked_sec / 2)
        chapters.extend(_chapters(chosen, librilight_dir / split / SPEAKER / BOOK, CHAPTER_SEC[split]))
    return chapters


def human_seconds(chapters: Iterable[PromptChapter], split: str) -> float:
    """Return the length of one split's human chapters."""
    return sum(
        _joined_sec(prompt)
        for chapter in chapters
        if chapter.flac_path.parts[-4] == split
        for prompt in chapter.prompt_paths
    )


def build_human_speech(chapters: list[PromptChapter], package: str, num_proc: int) -> list[dict[str, Any]]:
    """Write all chapters that are not there yet; returns the JSON of every chapter in the order given."""
    jobs = [(chapter.flac_path, (chapter, package)) for chapter in chapters]
    return build_missing(join_prompts, jobs, num_proc, "human speech")


def join_prompts(chapter: PromptChapter, package: str) -> dict[str, Any]:
    """Write one chapter; returns its JSON. `package` names the Debian package and its version."""
    pause = np.zeros(int(PAUSE_SEC * SAMPLE_RATE_HZ), np.float32)
    parts = [part for path in chapter.prompt_paths for part in (decode_prompt(path), pause)]
    metadata = {
        "speaker": SPEAKER,
        "book_meta": {"id": BOOK, "title": "Asterisk core sounds", "author": "Allison Smith", "language": "English"},
        "snr": None,
        "source": {"speech": package, "voice": "Allison Smith, a person", "licence": "CC-BY-SA-3.0"},
        "prompts": [f"{path.parent.name}/{path.stem}" for path in chapter.prompt_paths],
    }
    return write_recording(chapter.flac_path, np.concatenate(parts), metadata)


def _joined_sec(path: Path) -> float:
    """Seconds of a prompt and the pause after it, from the size of its file."""
    return path.stat().st_size / G722_BYTES_PER_SEC + PAUSE_SEC


def _at_most(prompts: list[Path], limit_sec: float) -> list[Path]:
    """The prompts in their order, less those that would no longer fit."""
    chosen, total_sec = [], 0.0
    for prompt in prompts:
        if total_sec + _joined_sec(prompt) <= limit_sec:
            chosen.append(prompt)
            total_sec += _joined_sec(prompt)
    return chosen


def _chapters(prompts: list[Path], book_dir: Path, chapter_sec: float) -> list[PromptChapter]:
    """Cut the prompts into chapters of about equal length near `chapter_sec`."""
    ends_sec = np.cumsum([_joined_sec(prompt) for prompt in prompts])
    if not prompts:
        return []
    count = max(1, round(float(ends_sec[-1]) / chapter_sec))
    edges = [int(np.searchsorted(ends_sec, ends_sec[-1] * place / count)) for place in range(count)] + [len(prompts)]
    return [
        PromptChapter(book_dir / f"{BOOK}_{place + 1:03d}.flac", tuple(prompts[edges[place] : edges[place + 1]]))
        for place in range(count)
    ]
