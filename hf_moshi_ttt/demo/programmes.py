"""Long recordings in which what was said returns: readings with refrains, dictations, rolls and cumulative tales.

What is different: nothing is repeated in codes or in sound. A speaker says the same words again, seconds or minutes
later, at whatever place of the codec's frames that is, and a room records all of it. Each recording has a speaker of
its own (`espeak.py`). The text is that of the novels; the held-out novels and voice variants never occur in training.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ
from .books import HELDOUT_NOVELS, TRAIN_NOVELS, build_missing, write_recording, write_text
from .corpus import claim_folder, split_summary
from .debian_packages import NOVELS_PACKAGE, TITLES, read_novels, unpack_package
from .espeak import Espeak, EspeakVoice
from .returning_forms import FORMS, lines_of
from .rooms import Room

PROGRAMME_SEC = {"train": (240.0, 420.0), "heldout": (180.0, 180.0)}
PAUSE_SEC = (0.15, 0.5)
LINES_PER_SEC = 1.0


@dataclass(frozen=True)
class Delivery:
    """How what returns is said.

    Args:
        spread: how far pitch and rate of each saying are from the speaker's own, a fraction; 0 for the same sound.
        on_frames: every line begins on a border of the codec's frames, so that equal sound gives equal codes.
        rooms: whether rooms, channels and noise are drawn; otherwise recordings are clean.
        voices: speakers of a recording; the second hearing of a line is the second one's, and so on in turn.
    """

    spread: float = 0.0
    on_frames: bool = False
    rooms: bool = True
    voices: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.spread < 1:
            raise ValueError(f"spread={self.spread}, but it must be from 0 to below 1; 0 says all lines alike.")
        if self.voices < 1:
            raise ValueError(f"voices={self.voices}, but a recording has at least 1.")


@dataclass(frozen=True)
class Programme:
    """One recording to be made: a form filled with lines, its speaker and others beside it, and its room."""

    split: str
    form: str
    number: int
    voice: EspeakVoice
    others: tuple[EspeakVoice, ...]
    room: Room
    lines: tuple[str, ...]
    length_sec: float
    novel: str
    seed: int

    def path(self, librilight_dir: Path) -> Path:
        """The audio's place: `<split>/<speaker>/<form>/<number>.flac`."""
        return librilight_dir / self.split / self.voice.name / self.form / f"{self.form}_{self.number:04d}.flac"


def plan_programmes(
    novels: dict[str, list[str]], espeak: Espeak, train_sec: float, heldout_sec: float, seed: int, delivery: Delivery
) -> list[Programme]:
    """Decides which recordings there are; the forms take turns.

    Raises:
        ValueError: a length is negative or not finite.
    """
    planned = []
    for split, total_sec, names in (("train", train_sec, TRAIN_NOVELS), ("heldout", heldout_sec, HELDOUT_NOVELS)):
        if not 0 <= total_sec < float("inf"):
            raise ValueError(f"{total_sec} seconds of {split} programmes, but 0 or more can be made; give 0 for none")
        texts = {name: lines_of(novels[name]) for name in names}
        variants, left_sec = espeak.variants(split), total_sec
        for number, form in zip(count(1), cycle(FORMS), strict=False):
            if left_sec <= 0:
                break
            made = _plan_one(split, form, number, texts, variants, seed, delivery)
            planned.append(made)
            left_sec -= made.length_sec
    return planned


def _plan_one(
    split: str,
    form: str,
    number: int,
    texts: dict[str, list[str]],
    variants: Sequence[str],
    seed: int,
    delivery: Delivery,
) -> Programme:
    own_seed = zlib.crc32(f"{seed}/{split}/{number}".encode())
    rng = np.random.default_rng([own_seed, 1])
    length_sec = float(rng.uniform(*PROGRAMME_SEC[split]))
    novel = list(texts)[rng.integers(len(texts))]
    first, wanted = int(rng.integers(len(texts[novel]))), int(length_sec * LINES_PER_SEC)
    lines = tuple(islice(cycle(texts[novel]), first, first + wanted))
    voice = EspeakVoice.draw(variants, rng)
    room = Room.draw(rng) if delivery.rooms else Room()
    others = tuple(EspeakVoice.draw(variants, rng) for _ in range(delivery.voices - 1))
    return Programme(split, form, number, voice, others, room, lines, length_sec, novel, own_seed)


def build_programmes(
    programmes: Sequence[Programme], librilight_dir: Path, espeak: Espeak, delivery: Delivery, num_proc: int
) -> list[dict[str, Any]]:
    """Makes all programmes that are not there yet; returns the JSON of each in the order given."""
    jobs = [(made.path(librilight_dir), (made, librilight_dir, espeak, delivery)) for made in programmes]
    return build_missing(speak_programme, jobs, num_proc, "programmes")


def speak_programme(programme: Programme, librilight_dir: Path, espeak: Espeak, delivery: Delivery) -> dict[str, Any]:
    """Says and records one programme; writes its FLAC and JSON.

    Returns:
        the JSON: with `lines`, for each `[start_sec, end_sec, number of its hearing, text]`.
    """
    samples_S, spoken = _say_all(programme, espeak, delivery)
    recorded_S = programme.room.record(samples_S, np.random.default_rng([programme.seed, 3]))
    metadata = {
        "speaker": programme.voice.name,
        "book_meta": {"id": programme.form, "title": f"{TITLES[programme.novel]}, {programme.form}",
                      "author": "Jane Austen", "language": "English"},
        "snr": programme.room.snr_db,
        "source": {"speech": espeak.sources, "voice": asdict(programme.voice),
                   "others": [asdict(voice) for voice in programme.others], "room": asdict(programme.room),
                   "delivery": asdict(delivery), "licence": "text public domain, espeak-ng GPL-3.0"},
        "lines": spoken,
    }  # fmt: skip
    return write_recording(programme.path(librilight_dir), recorded_S, json.loads(json.dumps(metadata)))


def _say_all(
    programme: Programme, espeak: Espeak, delivery: Delivery
) -> tuple[NDArray[np.float32], list[tuple[float, float, int, str]]]:
    """The speech `[S]`, and what is said when and for which time."""
    rng, speakers = np.random.default_rng([programme.seed, 2]), (programme.voice, *programme.others)
    said: dict[tuple[EspeakVoice, str], NDArray[np.float32]] = {}
    heard: dict[str, int] = {}
    parts: list[NDArray[np.float32]] = []
    spoken, place = [], 0
    for text in FORMS[programme.form](cycle(programme.lines), rng):
        heard[text] = heard.get(text, 0) + 1
        voice = speakers[(heard[text] - 1) % len(speakers)]
        voice = voice.spoken_anew(rng, delivery.spread) if delivery.spread else voice
        if (voice, text) not in said:
            said[voice, text] = voice.say(espeak, text)
        line = said[voice, text]
        spoken.append(
            (round(place / SAMPLE_RATE_HZ, 4), round((place + len(line)) / SAMPLE_RATE_HZ, 4), heard[text], text)
        )
        pause = int(rng.uniform(*PAUSE_SEC) * SAMPLE_RATE_HZ)
        if delivery.on_frames:
            pause += -(place + len(line) + pause) % FRAME_SAMPLES
        parts += [line, np.zeros(pause, np.float32)]
        place += len(line) + pause
        if place >= programme.length_sec * SAMPLE_RATE_HZ:
            return np.concatenate(parts), spoken
    raise AssertionError("forms do not end")


@dataclass(frozen=True)
class ProgrammesRequest:
    """How much is made, and the seed that decides who says what."""

    train_hours: float
    eval_minutes: float
    seed: int
    delivery: Delivery


def make_programmes(out_dir: Path, request: ProgrammesRequest, num_proc: int) -> dict[str, Any]:
    """Makes what is missing of a corpus of programmes and writes corpus.json last; returns what it says.

    Raises:
        ValueError: the folder holds another corpus, or a length is negative.
    """
    espeak = Espeak.unpack(out_dir / "packages")
    novels_dir = unpack_package(NOVELS_PACKAGE, out_dir / "packages")
    lengths_sec = (request.train_hours * 3600, request.eval_minutes * 60)
    programmes = plan_programmes(read_novels(novels_dir), espeak, *lengths_sec, request.seed, request.delivery)
    claim_folder(out_dir, asdict(request))
    librilight_dir = out_dir / "librilight"
    build_programmes(programmes, librilight_dir, espeak, request.delivery, num_proc)
    sources = [novels_dir.name.replace("_", " "), *espeak.sources]
    made = {"request": asdict(request), "splits": split_summary(librilight_dir), "debian_packages": sources}
    write_text(out_dir / "corpus.json", json.dumps(made, indent=1) + "\n")
    return made
