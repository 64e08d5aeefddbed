"""Audio files and frame arithmetic: the one place that knows 24 kHz, 12.5 frames a second and 1920 samples a frame.

Files are read by soundfile in parts that are found by seeking, so neither a short part of a long file nor a long file
read in blocks costs more than it holds. A part is always the slice of the whole: Opus and MP3, whose decoders carry a
state that a seek loses, are decoded from their start for it, and so is MP4. Damage is
an error, also what `containers.py` finds.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NewType

import numpy as np
import soundfile
import soxr

from .containers import BadAudioError, is_mp4, require_one_stream, require_whole, safe_start
from .samples import require_float_scale

if TYPE_CHECKING:
    from .mp4_audio import Mp4File

Frames = NewType("Frames", int)
"""A number of frames of 80 ms; only `frames_from_sec` makes one from seconds."""

SAMPLE_RATE_HZ = 24_000
FRAME_RATE_HZ = 12.5
FRAME_SAMPLES = 1920
AUDIO_SUFFIXES = (
    ".flac", ".wav", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".w64", ".rf64", ".bwf", ".caf", ".au", ".sph",
    ".m4a", ".m4b",
)  # fmt: skip
"""Of the files that are read; what they hold is judged by their content."""
BLOCK_FRAMES = 750
MAX_CHANNELS = 2
_MAX_SAMPLES = 1 << 48  # libsndfile's count for a header without one is larger


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
    return Frames(math.ceil(_frame_position(duration_sec)))


def frame_at_sec(time_sec: float) -> Frames:
    """The frame in which `time_sec` lies, negative before the start; a border belongs to the frame that it begins."""
    return Frames(math.floor(_frame_position(time_sec)))


def _frame_position(time_sec: float) -> float:
    """Frames up to a time, exact for times in milliseconds: without rounding 2.32 s would be just before frame 29."""
    return round(time_sec * FRAME_RATE_HZ, 6)


def whole_frames(samples: np.ndarray) -> np.ndarray:
    """Samples `[..., S]` with zeros up to whole frames: codecs encode an unfinished last frame otherwise."""
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, -samples.shape[-1] % FRAME_SAMPLES)])


def sec_from_frames(frames: float) -> float:
    """Seconds that `frames` last."""
    return frames / FRAME_RATE_HZ


def samples_at_24_khz(samples: int, rate_hz: int) -> int:
    """Samples that `samples` at `rate_hz` become; an unfinished last one counts, so frames are exact too."""
    return -(-samples * SAMPLE_RATE_HZ // rate_hz)


def read_header(source: str | Path | bytes) -> AudioHeader:
    """The header of a file, given by its path or content, without decoding it.

    Raises:
        BadAudioError: no audio file, one that was cut off, without samples or without their number.
    """
    with _opened(source, "not a readable audio file") as file:
        if file.frames == 0:
            raise BadAudioError(f"{_name(source)}: holds no samples.")
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
    path = _name(source)
    with _opened(source, "damaged or not an audio file") as file:
        rate = file.samplerate
        if not 0 <= start_sec * rate < max(1, file.frames):
            raise BadAudioError(f"{path}: start {start_sec} s is outside its {file.frames / rate:.3f} s.")
        start = round(start_sec * rate)
        count = file.frames - start
        if duration_sec is not None:
            count = min(count, round(duration_sec * rate))
        if count <= 0:
            raise BadAudioError(f"{path}: holds no samples.")
        with _content(file.name) as raw:
            require_one_stream(path, raw)
        _go_to(file, start)
        parts_SC = _checked_parts(file, path, count, block_frames * FRAME_SAMPLES)
        if rate != SAMPLE_RATE_HZ:
            parts_SC = _resampled(parts_SC, count, rate)
        yield from _regrouped(parts_SC, block_frames * FRAME_SAMPLES)


class _ForwardFile(soundfile.SoundFile):
    """A file that is read on from its current position.

    soundfile seeks after every read, which loses the state of Opus and MP3 and gives wrong samples in the last page of
    Ogg files.
    """

    is_reading = False

    def seekable(self) -> bool:
        """Whether soundfile may seek."""
        return not self.is_reading and bool(super().seekable())


def _go_to(file: "_ForwardFile | Mp4File", start: int) -> None:
    """Puts a file to a sample such that reading on gives the samples of the whole."""
    at = start
    if file.subtype == "VORBIS":
        with _content(file.name) as raw:
            at = safe_start(raw, start)
    elif file.subtype == "OPUS" or file.format == "MP3" or not file.seekable():
        at = 0
    if at and isinstance(file, _ForwardFile):
        file.seek(at)
    file.is_reading = True
    while at < start:
        skipped = len(file.read(min(start - at, BLOCK_FRAMES * FRAME_SAMPLES), dtype="float32", always_2d=True))
        if skipped == 0:
            raise BadAudioError(f"{_name(file.name)}: damaged, {at} of {file.frames} samples can be decoded.")
        at += skipped


def _content(source: str | Path | BytesIO) -> BinaryIO:
    """An opened file, or another view of content in memory."""
    return BytesIO(source.getbuffer()) if isinstance(source, BytesIO) else Path(source).open("rb")


def _name(source: str | Path | bytes | BytesIO) -> str:
    return "audio in memory" if isinstance(source, bytes | BytesIO) else str(source)


@contextmanager
def _opened(source: str | Path | bytes, complaint: str) -> Iterator["_ForwardFile | Mp4File"]:
    """An open file; what libsndfile says of it, then or later, becomes a `BadAudioError` with its path in it."""
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise BadAudioError(f"{source}: missing.")
    held, name = BytesIO(source) if isinstance(source, bytes) else str(source), _name(source)
    with _content(held) as raw:
        if not raw.read(1):
            raise BadAudioError(f"{name}: empty, it has 0 bytes. Fetch or make it again.")
        raw.seek(0)
        holds_mp4 = is_mp4(raw)
    if holds_mp4:
        from .mp4_audio import Mp4File

        with Mp4File(held) as mp4:
            yield mp4
        return
    try:
        file = _ForwardFile(held)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless formats such as .raw
        raise BadAudioError(f"{name}: {complaint} ({error}).") from error
    with file:
        with _content(held) as raw:
            require_whole(name, raw, file.format)
        if file.frames > _MAX_SAMPLES:
            raise BadAudioError(f"{name}: its header does not say how long it is; encode it again.")
        try:
            yield file
        except soundfile.LibsndfileError as error:
            raise BadAudioError(f"{name}: {complaint} ({error}).") from error


def _checked_parts(file: "soundfile.SoundFile | Mp4File", path: str, count: int, most: int) -> Iterator[np.ndarray]:
    """Yields `[S, C]` pieces of the next `count` samples."""
    done, is_integer = 0, file.subtype.startswith("PCM")
    while done < count:
        part_SC = file.read(min(most, count - done), dtype="float32", always_2d=True)
        if len(part_SC) == 0:
            raise BadAudioError(f"{path}: damaged, {done} of {count} samples can be decoded.")
        if not is_integer:
            _require_float_scale(path, part_SC)
        done += len(part_SC)
        yield part_SC


def _require_float_scale(path: str, part_SC: np.ndarray) -> None:
    try:
        require_float_scale(part_SC)
    except ValueError as error:
        raise BadAudioError(f"{path}: {error}") from error


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
