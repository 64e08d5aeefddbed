"""Indexes of audio corpora: one JSON line a file with `path`, relative to the index, and `duration` in seconds.

A folder is walked, headers are read in parallel and filters applied; files that cannot be used are reported beside the
index. LibriLight's layout `speaker/book/chapter.flac` gives `speaker` and `book`, the JSON beside a chapter `title` and
`snr`. What was read is kept in `<index>.partial` until the index is written, so a killed run continues there.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm

from ..codec.audio import AUDIO_SUFFIXES, MAX_CHANNELS, BadAudioError, read_blocks, read_header
from ..whole_files import replacing
from .bad_files import MAX_BAD_FRACTION, BadFiles, require_below
from .text_files import composed, numbered_lines, read_json
from .walk import shared_name, shared_names, walk_audio


@dataclass(frozen=True)
class IndexOptions:
    """What an index holds.

    Args:
        min_snr: files without an snr in the JSON beside them, or one that is no finite number, are left out too.
        speakers: names of the speakers to keep; None keeps all.
        check: whether every file is decoded, which finds damage that headers do not show.
        data_dir: the folder that all files must lie in, links followed; None for the indexed one.
    """

    min_duration_sec: float = 0.0
    max_duration_sec: float = math.inf
    min_snr: float | None = None
    speakers: frozenset[str] | None = None
    check: bool = False
    num_threads: int = 8
    max_bad_fraction: float = MAX_BAD_FRACTION
    data_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_sec <= self.max_duration_sec:
            raise ValueError(
                f"min_duration_sec={self.min_duration_sec} and max_duration_sec={self.max_duration_sec}, but the first "
                "must be 0 or more and not above the second."
            )
        if self.min_snr is not None and not math.isfinite(self.min_snr):
            raise ValueError(f"min_snr={self.min_snr}, but it must be a finite number.")
        if self.speakers is not None:
            object.__setattr__(self, "speakers", frozenset(map(composed, self.speakers)))
        if self.num_threads < 1:
            raise ValueError(f"num_threads={self.num_threads}, but it must be at least 1.")

    def reason_to_leave_out(self, entry: dict[str, Any]) -> str | None:
        """Which filter an entry does not pass."""
        if entry["duration"] < self.min_duration_sec:
            return f"shorter than {self.min_duration_sec:g} s"
        if entry["duration"] > self.max_duration_sec:
            return f"longer than {self.max_duration_sec:g} s"
        if self.min_snr is not None and not entry.get("snr", math.nan) >= self.min_snr:
            return f"without an snr of at least {self.min_snr:g}"
        if self.speakers is not None and entry.get("speaker") not in self.speakers:
            return "by another speaker"
        return None


@dataclass
class IndexSummary:
    """What became of the files of a folder."""

    files: int = 0
    hours: float = 0.0
    filtered: Counter[str] = field(default_factory=Counter)
    bad: BadFiles = field(default_factory=BadFiles)

    @property
    def total(self) -> int:
        """All files that were looked at."""
        return self.files + self.filtered.total() + len(self.bad.reasons)


def build_index(
    root: str | Path, output: str | Path, options: IndexOptions | None = None, progress: bool = True
) -> IndexSummary:
    """Indexes the audio below `root` in the order of paths; unusable files are listed in `<output stem>.bad.json`.

    Raises:
        ValueError: `root` is no folder or holds no audio, nothing passes the filters, or too many files are unusable.
    """
    options, root, output = options or IndexOptions(), Path(root).resolve(), Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    summary = IndexSummary()
    with _ScanLog(output.with_name(output.name + ".partial"), root, options) as log:
        entries = scan_folder(root, options, summary, log, progress)
    summary.bad.write_report(output.with_suffix(".bad.json"))
    summary.bad.require_few(summary.total, options.max_bad_fraction)
    if not entries:
        raise ValueError(f"{root}: no file passes the filters: {dict(summary.filtered)}.{summary.bad.listing()}")
    write_index(entries, output, root)
    log.path.unlink()
    return summary


def scan_folder(
    root: Path, options: IndexOptions, summary: IndexSummary, log: "_ScanLog | None" = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Entries of the audio below `root`, paths relative to it; what is left out is counted in `summary`.

    Raises:
        ValueError: `root` is no folder or holds no audio.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder.")
    names = walk_audio(root, summary.bad, summary.filtered)
    if not names:
        left_out = f" Left out: {dict(summary.filtered)}." if summary.filtered else ""
        raise ValueError(f"{root}: no usable audio ({', '.join(AUDIO_SUFFIXES)}).{left_out}{summary.bad.listing()}")
    return list(_usable(_scan(root, names, options, log, progress), root, options, summary))


class _ScanLog:
    """What a scan found, a JSON line a file, written as it goes and read by the run after a killed one."""

    def __init__(self, path: Path, root: Path, options: IndexOptions) -> None:
        self.path = path
        data_dir = None if options.data_dir is None else os.path.realpath(options.data_dir)
        self.header = {"root": str(root), "check": options.check, "data_dir": data_dir}
        self.found: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "_ScanLog":
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1] if self.path.is_file() else []
        if lines and json.loads(lines[0]) == self.header:
            self.found = {record["name"]: record for record in map(json.loads, lines[1:])}
        self.file: TextIO = self.path.open("w", encoding="utf-8", buffering=1)  # a line at a time
        for record in (self.header, *self.found.values()):
            self.write(record)
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def write(self, record: dict[str, Any]) -> None:
        """Adds a line."""
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _scan(
    root: Path, names: list[str], options: IndexOptions, log: _ScanLog | None, progress: bool
) -> Iterator[dict[str, Any]]:
    """Yields a record `{name, stamp, entry or reason}` for each file, in order.

    The stamp is that of the file and of the JSON beside it.
    """

    allowed = os.path.realpath(options.data_dir or root)

    def describe(name: str) -> dict[str, Any]:
        known = log.found.get(name) if log else None
        stamp = _stamp(root / name) + _stamp((root / name).with_suffix(".json"))
        if known is not None and known["stamp"] == stamp:
            return known
        return {"name": name, "stamp": stamp, **_describe(root, name, allowed, options.check)}

    with ThreadPoolExecutor(options.num_threads) as pool:
        bar = tqdm(pool.map(describe, names), desc="index", unit="file", total=len(names), disable=not progress)
        for record in bar:
            if log and log.found.get(record["name"]) is not record:
                log.write(record)
            yield record


def _stamp(path: Path) -> list[int]:
    """Size and time of the last change; -1 for what is not there."""
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _describe(root: Path, name: str, allowed: str, check: bool) -> dict[str, Any]:
    """`{entry}` of one file, or `{reason}` why it cannot be used."""
    path = root / name
    try:
        require_below(path, allowed)
        header = read_header(path)
        if header.channels > MAX_CHANNELS:
            raise BadAudioError(f"{path}: {header.channels} channels, but 1 or 2 are understood.")
        if check:
            for _ in read_blocks(path):
                pass
        entry = {"path": name, "duration": header.duration_sec, **_place(name), **_sidecar(path, allowed)}
    except (OSError, ValueError) as error:
        return {"reason": str(error)}
    return {"entry": entry}


def _place(name: str) -> dict[str, str]:
    """Speaker and book of LibriLight's layout."""
    *folders, _ = name.split("/")
    return {"speaker": composed(folders[-2]), "book": composed(folders[-1])} if len(folders) >= 2 else {}


def _sidecar(path: Path, allowed: str) -> dict[str, Any]:
    """Speaker, title and snr from the JSON beside a chapter, as far as it has them."""
    beside = path.with_suffix(".json")
    if beside.is_symlink():  # its folder has been found to lie inside
        require_below(beside, allowed)
    try:
        content = read_json(beside)
    except (FileNotFoundError, IsADirectoryError):
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{beside}: expected an object with speaker, book_meta and snr, got {type(content).__name__}.")
    book_meta = content.get("book_meta")
    found: dict[str, Any] = {}
    if isinstance(content.get("speaker"), str | int):
        found["speaker"] = composed(str(content["speaker"]))
    if isinstance(book_meta, dict) and isinstance(book_meta.get("title"), str):
        found["title"] = composed(book_meta["title"])
    snr = content.get("snr")
    if isinstance(snr, int | float) and not isinstance(snr, bool) and math.isfinite(snr):
        found["snr"] = float(snr)
    return found


def _usable(
    records: Iterable[dict[str, Any]], root: Path, options: IndexOptions, summary: IndexSummary
) -> Iterator[dict[str, Any]]:
    """Yields the entries that pass; counts all others."""
    for record in records:
        if "reason" in record:
            summary.bad.add(root / record["name"], record["reason"])
            continue
        entry = record["entry"]
        left_out = options.reason_to_leave_out(entry)
        if left_out is not None:
            summary.filtered[left_out] += 1
            continue
        summary.files += 1
        summary.hours += entry["duration"] / 3600
        yield entry


def write_index(entries: Iterable[dict[str, Any]], output: str | Path, root: str | Path) -> None:
    """Writes entries whose paths are relative to `root` as an index, in one step."""
    output = Path(output)
    prefix = Path(os.path.relpath(root, output.parent.resolve()))
    with replacing(output) as beside, beside.open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps({**entry, "path": (prefix / entry["path"]).as_posix()}, ensure_ascii=False) + "\n")


def read_index(index: str | Path, bad: BadFiles, data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Entries of an index with absolute paths and `name`, the path as written there; bad lines are counted in `bad`.

    Blank lines and byte order marks are skipped.

    Args:
        data_dir: the folder that all files must lie in, None for the index's own.

    Raises:
        ValueError: missing or empty index.
    """
    index = Path(index)
    if not index.is_file():
        raise ValueError(f"{index}: no such index. Make one with hf-moshi-ttt index.")
    entries, allowed = [], os.path.realpath(data_dir or index.parent)
    for number, line in numbered_lines(index):
        try:
            entries.append(_read_line(line, index.parent, allowed))
        except ValueError as error:
            bad.add(f"{index}:{number}", error)
    if not entries and not bad.reasons:
        raise ValueError(f"{index}: holds no entries.")
    twins = shared_names(entry["path"] for entry in entries)
    for name, other in twins.items():
        bad.add(name, shared_name(other))
    return [entry for entry in entries if entry["path"] not in twins]


def _read_line(line: bytes, folder: Path, allowed: str) -> dict[str, Any]:
    try:
        entry = json.loads(line.decode("utf-8"))
        name, duration_sec = entry["path"], float(entry["duration"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'expected {{"path": ..., "duration": ...}} in UTF-8, got {line!r}.') from error
    if not isinstance(name, str) or not 0 < duration_sec < math.inf:
        raise ValueError(f"path must be a text and duration above 0 seconds; got {line!r}.")
    path = os.path.normpath((folder / name).absolute())
    require_below(path, allowed)
    return {**entry, **_labels_of(entry), "name": name, "path": path, "duration": duration_sec}


def _labels_of(entry: dict[str, Any]) -> dict[str, Any]:
    """What a line says of speaker, book, title and snr; an snr that is no finite number is none."""
    labels: dict[str, Any] = {}
    for key in ("speaker", "book", "title"):
        if (text := entry.get(key)) is not None:
            if isinstance(text, bool) or not isinstance(text, str | int):
                raise ValueError(f"{key}={text!r}, but it must be a text.")
            labels[key] = composed(str(text))
    if (snr := entry.get("snr")) is not None:
        if isinstance(snr, bool) or not isinstance(snr, float | int):
            raise ValueError(f"snr={snr!r}, but it must be a number.")
        labels["snr"] = float(snr) if math.isfinite(snr) else None
    return labels
