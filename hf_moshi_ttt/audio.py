"""Audio files and frame arithmetic: the one place that knows 24 kHz, 12.5 frames a second and 1920 samples a frame."""

import math
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE_HZ = 24_000
FRAME_RATE_HZ = 12.5
FRAME_SAMPLES = 1920
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg")


class BadAudioError(ValueError):
    """An audio file that cannot be used: unreadable, empty, or with samples that are no numbers."""


def frames_from_sec(duration_sec: float) -> int:
    """Whole frames that hold `duration_sec`; the last one may be padded."""
    return math.ceil(round(duration_sec * FRAME_RATE_HZ, 6))


def sec_from_frames(frames: float) -> float:
    """Seconds that `frames` last."""
    return frames / FRAME_RATE_HZ


def audio_duration_sec(path: str | Path) -> float:
    """Duration from the file's header.

    Raises:
        BadAudioError: no audio file, or one without samples.
    """
    try:
        header = soundfile.info(str(path))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        raise BadAudioError(f"{path}: not a readable audio file ({error}).") from error
    if header.frames == 0:
        raise BadAudioError(f"{path}: holds no samples.")
    return header.frames / header.samplerate


def read_audio(path: str | Path, start_sec: float = 0.0, duration_sec: float | None = None) -> np.ndarray:
    """Samples of a file or a part of it, found by seeking: float32 `[C, S]` at 24 kHz.

    Raises:
        BadAudioError: missing, unreadable, damaged or empty file, a start behind its end, or NaN samples.
        ValueError: a duration that is not above 0.
    """
    if duration_sec is not None and not duration_sec > 0:
        raise ValueError(f"duration_sec={duration_sec}, but it must be above 0 seconds.")
    if not Path(path).is_file():
        raise BadAudioError(f"{path}: missing.")
    try:
        with soundfile.SoundFile(str(path)) as file:
            rate = file.samplerate
            if not 0 <= start_sec * rate < max(1, file.frames):
                raise BadAudioError(f"{path}: start {start_sec} s is outside its {file.frames / rate:.3f} s.")
            file.seek(round(start_sec * rate))
            count = -1 if duration_sec is None else round(duration_sec * rate)
            samples_SC = file.read(count, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        raise BadAudioError(f"{path}: damaged or not an audio file ({error}).") from error
    if not np.isfinite(samples_SC).all():
        raise BadAudioError(f"{path}: holds samples that are NaN or infinite.")
    samples_SC = resample(samples_SC, rate)
    if len(samples_SC) == 0:
        raise BadAudioError(f"{path}: holds no samples.")
    return np.ascontiguousarray(samples_SC.T)


def resample(samples_SC: np.ndarray, rate_hz: int) -> np.ndarray:
    """Samples `[S, C]` at 24 kHz."""
    return samples_SC if rate_hz == SAMPLE_RATE_HZ else soxr.resample(samples_SC, rate_hz, SAMPLE_RATE_HZ)
