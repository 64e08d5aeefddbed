"""Audio files and frame arithmetic: the one place that knows 24 kHz, 12.5 frames a second and 1920 samples a frame.

Files are read by soundfile in parts that are found by seeking, so neither a short part of a long file nor a long file
read in blocks costs more than it holds. Damage is an error: FLAC says so itself when it is decoded; WAV and OGG files
that were cut off are told by their containers' own lengths, which soundfile does not check.
"""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NewType

import numpy as np
import soundfile
import soxr

Frames = NewType("Frames", int)
"""A number of frames of 80 ms: what seconds become by `frames_from_sec` alone."""

SAMPLE_RATE_HZ = 24_000
FRAME_RATE_HZ = 12.5
FRAME_SAMPLES = 1920
AUDIO_SUFFIXES = (".flac", ".wav", ".ogg")
BLOCK_FRAMES = 750
MAX_CHANNELS = 2
_MAX_SAMPLES = 1 << 48  # libsndfile's count for a header without one is larger
_MAX_OGG_PAGE_BYTES = 65_307
_UNKNOWN_RIFF_BYTES = (0, 0xFFFFFFFF)  # written by encoders that cannot seek


class BadAudioError(ValueError):
    """An audio file that cannot be used: unreadable, cut off, empty, or with samples that are no numbers."""


@dataclass(frozen=True)
class AudioHeader:
    """What a file's header says; `samples` are those of one channel."""

    samples: int
    rate_hz: int
    channels: int

    @property
    def duration_sec(self) -> float:
        """Length of the recording."""
        return self.samples / self.rate_hz


def frames_from_sec(duration_sec: float) -> Frames:
    """Whole frames that hold `duration_sec`; the last one may be padded."""
    return Frames(math.ceil(round(duration_sec * FRAME_RATE_HZ, 6)))


def sec_from_frames(frames: float) -> float:
    """Seconds that `frames` last."""
    return frames / FRAME_RATE_HZ


def samples_at_24_khz(samples: int, rate_hz: int) -> int:
    """Samples that `samples` at `rate_hz` become; an unfinished last one counts, so frames are exact too."""
    return -(-samples * SAMPLE_RATE_HZ // rate_hz)


def read_header(path: str | Path) -> AudioHeader:
    """The header of a file, without decoding it.

    Raises:
        BadAudioError: no audio file, one that was cut off, without samples or without their number.
    """
    with _opened(path, path, "not a readable audio file") as file:
        if file.frames == 0:
            raise BadAudioError(f"{path}: holds no samples.")
        return AudioHeader(file.frames, file.samplerate, file.channels)


def audio_duration_sec(path: str | Path) -> float:
    """Duration from the file's header; errors as in `read_header`."""
    return read_header(path).duration_sec


def read_audio(source: str | Path | bytes, start_sec: float = 0.0, duration_sec: float | None = None) -> np.ndarray:
    """Samples of a file, given by its path or content, or a part of it, found by seeking: float32 `[C, S]` at 24 kHz.

    Raises:
        BadAudioError: missing, unreadable, damaged or empty file, a start after its end, or NaN samples.
        ValueError: a duration that is not above 0.
    """
    return np.concatenate(list(read_blocks(source, start_sec, duration_sec)), axis=1)


def read_blocks(
    source: str | Path | bytes,
    start_sec: float = 0.0,
    duration_sec: float | None = None,
    block_frames: int = BLOCK_FRAMES,
) -> Iterator[np.ndarray]:
    """As `read_audio`, in blocks `[C, block_frames * 1920]` of which the last may be shorter, in bounded memory.

    Together they hold ceil(duration * 24000) samples whatever the file's rate, so whole frames are exact.
    """
    if duration_sec is not None and not duration_sec > 0:
        raise ValueError(f"duration_sec={duration_sec}, but it must be above 0 seconds.")
    path = "audio in memory" if isinstance(source, bytes) else source
    with _opened(source, path, "damaged or not an audio file") as file:
        rate = file.samplerate
        if not 0 <= start_sec * rate < max(1, file.frames):
            raise BadAudioError(f"{path}: start {start_sec} s is outside its {file.frames / rate:.3f} s.")
        start = round(start_sec * rate)
        count = file.frames - start
        if duration_sec is not None:
            count = min(count, round(duration_sec * rate))
        if count <= 0:
            raise BadAudioError(f"{path}: holds no samples.")
        file.seek(start)
        parts_SC = _checked_parts(file, path, count, block_frames * FRAME_SAMPLES)
        if rate != SAMPLE_RATE_HZ:
            parts_SC = _resampled(parts_SC, count, rate)
        yield from _regrouped(parts_SC, block_frames * FRAME_SAMPLES)


@contextmanager
def _opened(source: str | Path | bytes, path: str | Path, complaint: str) -> Iterator[soundfile.SoundFile]:
    """An open file; what libsndfile says of it, then or later, becomes a `BadAudioError` with `path` in it."""
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise BadAudioError(f"{path}: missing.")
    try:
        file = soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else str(source))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        raise BadAudioError(f"{path}: {complaint} ({error}).") from error
    with file:
        with BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as raw:
            _require_whole(raw, path)
        if file.frames > _MAX_SAMPLES:
            raise BadAudioError(f"{path}: its header does not say how long it is; encode it again.")
        try:
            yield file
        except soundfile.LibsndfileError as error:
            raise BadAudioError(f"{path}: {complaint} ({error}).") from error


def _require_whole(file: BinaryIO, path: str | Path) -> None:
    """Raises for a WAV or OGG file that ends before its container says."""
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        (riff_bytes,) = struct.unpack("<I", head[4:8])
        if riff_bytes not in _UNKNOWN_RIFF_BYTES and riff_bytes + 8 > size:
            raise BadAudioError(f"{path}: cut off, {size} of {riff_bytes + 8} bytes are there.")
    elif head[:4] == b"OggS":
        file.seek(max(0, size - _MAX_OGG_PAGE_BYTES))
        if not _ends_ogg_stream(file.read()):
            raise BadAudioError(f"{path}: cut off, its last OGG page is not the end of the stream.")


def _ends_ogg_stream(tail: bytes) -> bool:
    """Whether bytes end with a whole OGG page that carries the end-of-stream flag."""
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return False
    is_last = bool(page[5] & 4)
    return is_last and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _checked_parts(file: soundfile.SoundFile, path: str | Path, count: int, most: int) -> Iterator[np.ndarray]:
    """Yields `[S, C]` pieces of the next `count` samples."""
    done = 0
    while done < count:
        part_SC = file.read(min(most, count - done), dtype="float32", always_2d=True)
        if len(part_SC) == 0:
            raise BadAudioError(f"{path}: damaged, {done} of {count} samples can be decoded.")
        if not np.isfinite(part_SC).all():
            raise BadAudioError(f"{path}: holds samples that are NaN or infinite.")
        done += len(part_SC)
        yield part_SC


def _resampled(parts_SC: Iterator[np.ndarray], count: int, rate_hz: int) -> Iterator[np.ndarray]:
    """Yields the pieces of `count` samples at 24 kHz; the resampler's rounding is made up by zeros at the end."""
    wanted = samples_at_24_khz(count, rate_hz)
    stream, taken, made = None, 0, 0
    for part_SC in parts_SC:
        stream = stream or soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, part_SC.shape[1], dtype="float32")
        taken += len(part_SC)
        out_SC = stream.resample_chunk(part_SC, last=taken == count)[: wanted - made]
        made += len(out_SC)
        yield out_SC
    yield np.zeros((wanted - made, part_SC.shape[1]), np.float32)


def _regrouped(parts_SC: Iterator[np.ndarray], block: int) -> Iterator[np.ndarray]:
    """Yields contiguous `[C, block]` blocks, the last one as short as it is."""
    held_SC: np.ndarray | None = None
    for part_SC in parts_SC:
        held_SC = part_SC if held_SC is None else np.concatenate([held_SC, part_SC])
        while len(held_SC) >= block:
            yield np.ascontiguousarray(held_SC[:block].T)
            held_SC = held_SC[block:]
    if held_SC is not None and len(held_SC):
        yield np.ascontiguousarray(held_SC.T)
