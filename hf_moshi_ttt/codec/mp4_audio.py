"""AAC and ALAC in MP4 files (.m4a, .m4b), decoded by PyAV behind what is used of a `soundfile.SoundFile`.

libsndfile does not read MP4. The encoder's delay is left out, as the file's edit list says. Files are read from their
start: a part costs the decoding of what comes before it.
"""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .containers import BadAudioError

_MS_PER_SEC = 1000  # the file's length is rounded to milliseconds


def require_whole_boxes(path: str, file: BinaryIO) -> None:
    """Raises for a file that ends inside one of its boxes, or without the box that describes its sound.

    Raises:
        BadAudioError: the file was cut off.
    """
    size, at, kinds = file.seek(0, os.SEEK_END), 0, set()
    while at < size:
        file.seek(at)
        head = file.read(16)
        length, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if length == 1:  # the length is a 64-bit number after the name
            length = int.from_bytes(head[8:16], "big")
        length = size - at if length == 0 else length  # 0: up to the end of the file
        if length < 8 or at + length > size:
            raise BadAudioError(f"{path}: cut off, {size} of {at + length} bytes.")
        kinds.add(kind)
        at += length
    if b"moov" not in kinds:
        raise BadAudioError(f"{path}: cut off, nothing in it describes its sound (moov).")


class Mp4File:
    """The audio stream of an MP4 file.

    Args:
        source: its path or content.

    Raises:
        BadAudioError: PyAV is missing, or the file is damaged, cut off or without exactly one audio stream.
    """

    format = "MP4"

    def __init__(self, source: str | BytesIO) -> None:
        self.name = source
        self._path = source if isinstance(source, str) else "audio in memory"
        self.is_reading = False
        with Path(source).open("rb") if isinstance(source, str) else BytesIO(source.getbuffer()) as raw:
            require_whole_boxes(self._path, raw)
        try:
            import av
        except ImportError as error:
            raise BadAudioError(
                f"{self._path}: MP4 is decoded by PyAV, which is not installed: pip install 'hf_moshi_ttt[m4a]'."
            ) from error
        try:
            self._container: Any = av.open(source)
        except av.FFmpegError as error:
            raise BadAudioError(f"{self._path}: damaged or not an audio file ({error}).") from error
        streams = self._container.streams.audio
        if len(streams) != 1:
            raise BadAudioError(f"{self._path}: holds {len(streams)} audio streams, but one is read.")
        self._stream = streams[0]
        self.samplerate, self.channels = self._stream.rate, self._stream.channels
        self.subtype = self._stream.codec_context.name.upper()
        self.frames = round((self._stream.duration or 0) * (self._stream.time_base or 0) * self.samplerate)
        self._missing_most = self.samplerate // _MS_PER_SEC
        self._held_SC = np.zeros((0, self.channels), np.float32)
        self._parts_SC = self._decoded(av)

    def __enter__(self) -> "Mp4File":
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def seekable(self) -> bool:
        """False: it is read from its start."""
        return False

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """The next samples, float32 `[S, C]`, fewer at the end.

        Raises:
            BadAudioError: what comes next is damaged.
        """
        assert dtype == "float32" and always_2d
        while len(self._held_SC) < frames:
            part_SC = next(self._parts_SC, None)
            if part_SC is None:
                break
            self._held_SC = np.concatenate([self._held_SC, part_SC])
        taken_SC, self._held_SC = self._held_SC[:frames], self._held_SC[frames:]
        return taken_SC

    def _decoded(self, av: Any) -> Iterator[np.ndarray]:
        """Pieces `[S, C]`, and zeros for what the rounding of the length adds."""
        to_float, count = av.AudioResampler(format="fltp"), 0
        try:
            for packed in self._container.decode(self._stream):
                for frame in to_float.resample(packed):
                    count += frame.samples
                    yield frame.to_ndarray().T
        except av.FFmpegError as error:
            raise BadAudioError(f"{self._path}: damaged after {count} samples ({error}).") from error
        if 0 < self.frames - count <= self._missing_most:
            yield np.zeros((self.frames - count, self.channels), np.float32)
