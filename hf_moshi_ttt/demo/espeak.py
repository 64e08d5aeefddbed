"""Hundreds of synthetic speakers: `espeak-ng` from its Debian packages, unpacked without root, with the libraries that
the machine lacks (a server has none for sound).

A speaker is an accent of English, one of the package's voice variants, a pitch, a rate, and a size, which resampling
gives: it moves pitch, vocal tract and rate together. What a speaker says depends on the text alone, to the sample.
"""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from ..codec.audio import SAMPLE_RATE_HZ
from ..codec.samples import float_samples
from .debian_packages import packages_to_install, unpack_package

PACKAGES = ("espeak-ng", "libespeak-ng1", "espeak-ng-data", "libpcaudio0", "libsonic0")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029")
VARIANT_FOLDER = "!v"
UNVOICED_VARIANTS = ("whisper", "whisperf", "croak")
HELDOUT_EVERY = 8
PITCHES = (20, 80)
WORDS_PER_MIN = (140, 200)
SIZES = (0.88, 1.14)
_WAV_HEADER_BYTES = 44
_WAV_RATE_BYTES = slice(24, 28)


@dataclass(frozen=True)
class Espeak:
    """The unpacked packages: their folders, in the order of `PACKAGES`, and those of libraries that were missing."""

    folders: tuple[Path, ...]
    dependencies: tuple[Path, ...] = ()

    @classmethod
    def unpack(cls, cache_dir: Path) -> "Espeak":
        """Fetches and unpacks what is not there yet.

        Raises:
            FileNotFoundError, RuntimeError: as `unpack_package` says.
        """
        espeak = cls(tuple(unpack_package(name, cache_dir) for name in PACKAGES))
        if espeak._run("", ["--version"]).returncode == 0:
            return espeak
        missing = [name for name in packages_to_install(PACKAGES[0], cache_dir) if name not in PACKAGES]
        return replace(espeak, dependencies=tuple(unpack_package(name, cache_dir) for name in missing))

    @property
    def sources(self) -> list[str]:
        """Name and version of every package."""
        return [folder.name.replace("_", " ") for folder in self.folders]

    def variants(self, split: str) -> list[str]:
        """The voice variants of the split "train" or "heldout"; no variant is in both."""
        names = sorted(path.name for path in self._variant_files() if path.name not in UNVOICED_VARIANTS)
        held_out = names[::HELDOUT_EVERY]
        return held_out if split == "heldout" else [name for name in names if name not in held_out]

    def require_variant(self, name: str) -> None:
        """Raises a `ValueError` for a variant that is not there: the program would speak with another one instead."""
        names = sorted(path.name for path in self._variant_files())
        if name not in names:
            raise ValueError(f"variant {name!r}, but espeak-ng has {', '.join(names)}.")

    def _variant_files(self) -> Iterator[Path]:
        return (self._find("espeak-ng-data/voices") / VARIANT_FOLDER).iterdir()

    def _find(self, below_lib: str) -> Path:
        """A file or folder below one of the packages' libraries, whatever machine they are for."""
        return next(path for folder in self.folders for path in folder.glob(f"usr/lib/*/{below_lib}"))

    @cached_property
    def _library_path(self) -> str:
        folders = (*self.folders, *self.dependencies)
        return os.pathsep.join(sorted({str(path.parent) for folder in folders for path in folder.rglob("*.so*")}))

    def _run(self, text: str, options: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(self.folders[0] / "usr/bin/espeak-ng"), f"--path={self._find('espeak-ng-data').parent}", *options],
            input=text.encode(),
            capture_output=True,
            env={**os.environ, "LD_LIBRARY_PATH": self._library_path},
            check=False,
        )

    def speak(self, text: str, options: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """What the program says of `text`: samples `[S]` and their rate in Hz.

        Raises:
            RuntimeError: the program failed; the message holds what it said.
        """
        done = self._run(text, ["-z", "-b", "1", "--stdin", "--stdout", *options])
        if done.returncode != 0 or len(done.stdout) < _WAV_HEADER_BYTES:
            said = done.stderr.decode(errors="replace").strip()
            raise RuntimeError(f"espeak-ng ended with status {done.returncode} for {text!r}: {said!r}")
        rate_hz = int.from_bytes(done.stdout[_WAV_RATE_BYTES], "little")
        samples = float_samples(np.frombuffer(done.stdout[_WAV_HEADER_BYTES:], "<i2"))
        return samples, rate_hz


@dataclass(frozen=True)
class EspeakVoice:
    """One speaker.

    Args:
        pitch: 0 to 99; 50 is the variant's own.
        words_per_min: before `size`.
        size: pitch, vocal tract and rate relative to the variant's; 0.9 is larger, lower and slower.
    """

    accent: str
    variant: str
    pitch: int
    words_per_min: int
    size: float

    @classmethod
    def draw(cls, variants: Sequence[str], rng: Generator) -> "EspeakVoice":
        """A speaker of one of the variants."""
        accent, variant = ACCENTS[int(rng.integers(len(ACCENTS)))], variants[int(rng.integers(len(variants)))]
        pitch, words_per_min = int(rng.integers(*PITCHES)), int(rng.integers(*WORDS_PER_MIN))
        return cls(accent, variant, pitch, words_per_min, round(float(rng.uniform(*SIZES)), 3))

    @property
    def name(self) -> str:
        """The speaker's name, as a folder can be called."""
        variant = self.variant.replace(" ", "")
        return f"{self.accent}_{variant}_{self.pitch}_{self.words_per_min}_{self.size:g}"

    def spoken_anew(self, rng: Generator, spread: float) -> "EspeakVoice":
        """The same speaker with another pitch and rate, each up to `spread` (a fraction) away."""
        higher, faster = rng.uniform(1 - spread, 1 + spread, 2)
        pitch = int(np.clip(round(self.pitch * higher), 0, 99))
        return replace(self, pitch=pitch, words_per_min=round(self.words_per_min * faster))

    def say(self, espeak: Espeak, text: str) -> NDArray[np.float32]:
        """Speech `[S]` at 24,000 Hz.

        Raises:
            ValueError: the package has no such variant.
        """
        espeak.require_variant(self.variant)
        options = ["-v", f"{self.accent}+{self.variant}", "-p", str(self.pitch), "-s", str(self.words_per_min)]
        samples, rate_hz = espeak.speak(text, options)
        return soxr.resample(samples, rate_hz * self.size, SAMPLE_RATE_HZ) if len(samples) else samples
