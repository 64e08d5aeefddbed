"""Whether an audio file is whole, by the length in its container: libsndfile reads a cut-off file without an error.

WAV (also RF64, BW64, Wave64 and RIFX), AIFF, CAF and AU are judged by the chunk that holds the samples, since recorders
write all kinds of outer lengths; Ogg by the mark of the stream's end; MP3 by its Xing or Info header; SPHERE by the
number of samples. FLAC says so itself when it is decoded. Other formats are refused, as nothing would show that they
were cut off.
"""

import math
import mmap
import os
import re
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

_PLACEHOLDERS = (0x7F000000, 0x7FFFF000, 0x7FFFFFDB, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF)
"""Lengths that encoders write which cannot seek back (sox, arecord, lame, ffmpeg), before rounding to blocks."""
_MOST_BLOCK_BYTES = 64
_MOST_OGG_PAGE_BYTES = 65_307
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")


class BadAudioError(ValueError):
    """An audio file that cannot be used: unreadable, cut off, empty, or with samples that are no numbers."""


@dataclass(frozen=True)
class _Chunks:
    """A container of chunks: where the first begins, what comes before each, and which one holds the samples."""

    first: int
    head: struct.Struct
    samples: bytes
    align: int = 2
    counts_head: bool = False


_LAYOUTS = {
    b"RIFF": _Chunks(12, struct.Struct("<4sI"), b"data"),
    b"RF64": _Chunks(12, struct.Struct("<4sI"), b"data"),
    b"BW64": _Chunks(12, struct.Struct("<4sI"), b"data"),
    b"RIFX": _Chunks(12, struct.Struct(">4sI"), b"data"),
    b"FORM": _Chunks(12, struct.Struct(">4sI"), b"SSND"),
    b"riff": _Chunks(40, struct.Struct("<16sQ"), b"data" + _W64_TAIL, align=8, counts_head=True),
    b"caff": _Chunks(8, struct.Struct(">4sQ"), b"data", align=1),
}
_UNKNOWN_64 = (0, (1 << 64) - 1)


def require_whole(path: str | Path, file: BinaryIO, container: str) -> None:
    """Raises for a file that was cut off, or of which that cannot be known.

    Args:
        container: libsndfile's name of the format.

    Raises:
        BadAudioError: the file was cut off, or nothing shows that it is whole.
    """
    size, tag = file.seek(0, os.SEEK_END), _read_at(file, 0, 4)
    if tag in _LAYOUTS:
        _require_samples(path, _samples_of(file, _LAYOUTS[tag], size), size)
    elif tag == b".snd":
        start, length = struct.unpack(">II", _read_at(file, 4, 8))
        _require_samples(path, (start, length), size)
    elif container == "OGG":
        _require_ogg_end(path, file, size)
    elif container == "MP3":
        _require_mp3_end(path, file, size)
    elif container == "NIST":
        _require_sphere_end(path, file, size)
    elif container != "FLAC":
        raise BadAudioError(f"{path}: a {container} file, which does not show whether it is whole; convert it to FLAC.")


def is_mp4(file: BinaryIO) -> bool:
    """Whether a file begins as MP4 does."""
    return _read_at(file, 4, 4) == b"ftyp"


def require_one_stream(path: str | Path, file: BinaryIO) -> None:
    """Raises for an Ogg file in which a second stream follows the first, of which libsndfile reads only the first.

    Raises:
        BadAudioError: there is a second stream.
    """
    if _read_at(file, 0, 4) != b"OggS":
        return
    if isinstance(file, BytesIO):
        is_chained = _is_chained(file.getvalue())
    else:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            is_chained = _is_chained(content)
    if is_chained:
        raise BadAudioError(_chained(path))


def _is_chained(content: bytes | mmap.mmap) -> bool:
    """Whether a first page of a stream comes after other pages; those of multiplexed streams all come at the start."""
    at = 0
    while at >= 0 and content[at + 5 : at + 6] == b"\x02":
        at = content.find(b"OggS\x00", at + 1)
    return at >= 0 and content.find(b"OggS\x00\x02", at) >= 0


def safe_start(file: BinaryIO, start: int) -> int:
    """Where to seek in an Ogg Vorbis file so that decoding from there on gives the samples from `start` on.

    libsndfile's seeks into the last page end up too late, by as many samples as the encoder padded.
    """
    size = file.seek(0, os.SEEK_END)
    tail = _read_at(file, max(0, size - 2 * _MOST_OGG_PAGE_BYTES), 2 * _MOST_OGG_PAGE_BYTES)
    last = tail.rfind(b"OggS\x00")
    before = tail.rfind(b"OggS\x00", 0, max(0, last))
    (granule,) = struct.unpack("<q", tail[before + 6 : before + 14]) if before >= 0 else (0,)
    return min(start, max(0, granule - 1))


def _read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _samples_of(file: BinaryIO, layout: _Chunks, size: int) -> tuple[int, int] | None:
    """Offset and length in bytes of the samples, None where no chunk holds any; a length of 0 is an unknown one."""
    at, length_64 = layout.first, 0
    while at + layout.head.size <= size:
        name, length = layout.head.unpack(_read_at(file, at, layout.head.size))
        start = at + layout.head.size
        length -= layout.head.size if layout.counts_head else 0
        if name == b"ds64":
            _, length_64 = struct.unpack("<QQ", _read_at(file, start, 16))
        if name == layout.samples:
            return start, length_64 if length == 0xFFFFFFFF and length_64 else length
        if length < 0:
            return None
        at = start + length + -length % layout.align
    return None


def _require_samples(path: str | Path, found: tuple[int, int] | None, size: int) -> None:
    if found is None:
        return
    start, length = found
    there = size - start
    if length == 0 and there > 0:
        raise BadAudioError(
            f"{path}: its header says 0 bytes of samples, but {there} bytes follow, as from a program that cannot seek "
            "back to write the length; write it again, e.g. with `ffmpeg -i IN OUT.wav`."
        )
    if length > there and not _is_placeholder(length):
        raise BadAudioError(f"{path}: cut off, {max(0, there)} of {length} bytes of samples are there.")


def _is_placeholder(length: int) -> bool:
    known = any(0 <= placeholder - length < _MOST_BLOCK_BYTES for placeholder in _PLACEHOLDERS)
    return known or length in _UNKNOWN_64


def _require_ogg_end(path: str | Path, file: BinaryIO, size: int) -> None:
    serial = _read_at(file, 14, 4)
    tail = _read_at(file, max(0, size - _MOST_OGG_PAGE_BYTES), _MOST_OGG_PAGE_BYTES)
    page = tail[max(0, tail.rfind(b"OggS\x00")) :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise BadAudioError(f"{path}: cut off, its last Ogg page is not whole.")
    if page[14:18] != serial:
        raise BadAudioError(_chained(path))
    if not page[5] & 4:
        raise BadAudioError(
            f"{path}: cut off between two Ogg pages, or written by a program that does not mark the end of a stream, "
            "such as sphn: nothing shows whether it is whole. If it is, convert it, e.g. with `ffmpeg -i IN OUT.flac`."
        )


def _require_sphere_end(path: str | Path, file: BinaryIO, size: int) -> None:
    head = _read_at(file, 0, 1024).decode("latin-1")
    fields = {key: int(value) for key, value in re.findall(r"^(\w+) -(?:i|s\d+) (\d+)$", head, re.M)}
    numbers = [fields.get(key) for key in ("sample_count", "channel_count", "sample_n_bytes")]
    start = re.match(r"NIST_1A\n *(\d+)\n", head)
    if start is None or None in numbers:
        raise BadAudioError(f"{path}: a SPHERE file whose header does not say how long it is; convert it to FLAC.")
    _require_samples(path, (int(start[1]), math.prod(int(number or 0) for number in numbers)), size)


def _chained(path: str | Path) -> str:
    return (
        f"{path}: holds several Ogg streams, one after the other, of which only the first would be read; join them, "
        "e.g. with `ffmpeg -i IN OUT.flac`."
    )


def _require_mp3_end(path: str | Path, file: BinaryIO, size: int) -> None:
    head = _read_at(file, 0, 10)
    start = 0
    if head[:3] == b"ID3":
        start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    frame = _read_at(file, start, 256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0 or len(frame) < at + 16 or not frame[at + 7] & 2:
        raise BadAudioError(
            f"{path}: an MP3 file without a Xing or Info header, so that nothing shows whether it is whole. If it is, "
            "convert it, e.g. with `ffmpeg -i IN OUT.flac`."
        )
    place = at + 8 + (4 if frame[at + 7] & 1 else 0)  # after the number of frames, where that is given
    (length,) = struct.unpack(">I", frame[place : place + 4])
    if start + length > size:
        raise BadAudioError(f"{path}: cut off, {size - start} of {length} bytes are there.")
