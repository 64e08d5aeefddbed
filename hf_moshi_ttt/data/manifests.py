"""Indexes of audio corpora (one JSON line a file: `path`, `duration`) and the corpora behind them as `datasets`.

LibriLight: audiobooks, `speaker/book/chapter.flac`, audio only. DailyTalk: two-channel conversations, left Moshi's
speaker, right the user, with word times in a .json beside each file. Paths in an index are relative to the index.
Files that cannot be used are left out, counted and listed with the reason; too many of them stop the load.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, Features, Value
from datasets import List as ListFeature
from tqdm.auto import tqdm

from ..audio import AUDIO_SUFFIXES, SAMPLE_RATE_HZ, BadAudioError, audio_duration_sec

MAIN_SPEAKER = "SPEAKER_MAIN"
_MAX_BAD_FRACTION = 0.01
_WORD = {
    "word": Value("string"),
    "start_sec": Value("float64"),
    "end_sec": Value("float64"),
    "speaker": Value("string"),
}


@dataclass
class BadFiles:
    """Files that were left out, with the reason of each."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, path: str | Path, reason: object) -> None:
        """Counts one file."""
        self.reasons[str(path)] = str(reason)

    def require_few(self, total: int, max_bad_fraction: float = _MAX_BAD_FRACTION) -> None:
        """Raises with the list when more than `max_bad_fraction` of `total` files were left out."""
        if len(self.reasons) > max_bad_fraction * total:
            listed = "\n".join(f"  {path}: {reason}" for path, reason in list(self.reasons.items())[:20])
            raise ValueError(
                f"{len(self.reasons)} of {total} files cannot be used, more than the {max_bad_fraction:.1%} allowed "
                f"(max_bad_fraction):\n{listed}"
            )


def index_audio(root: str | Path, bad: BadFiles, progress: bool = True) -> Iterator[dict[str, Any]]:
    """One entry `{path, duration}` for each audio file below `root`, in the order of their paths.

    Raises:
        ValueError: `root` is no folder or holds no audio.
    """
    root = Path(root)
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not paths:
        raise ValueError(f"{root}: no folder with {', '.join(AUDIO_SUFFIXES)} files.")
    for path in tqdm(paths, desc="index", unit="file", disable=not progress):
        try:
            duration_sec = audio_duration_sec(path)
        except BadAudioError as error:
            bad.add(path, error)
        else:
            yield {"path": path.relative_to(root).as_posix(), "duration": round(duration_sec, 6)}


def write_index(entries: Iterable[dict[str, Any]], output: str | Path, root: str | Path) -> int:
    """Writes entries whose paths are relative to `root` as an index, in one step; returns how many."""
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = Path(os.path.relpath(root, output.parent))
    partial = output.with_name(output.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        for entry in entries:
            file.write(json.dumps({**entry, "path": (prefix / entry["path"]).as_posix()}, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(output)
    return count


def read_index(index: str | Path) -> list[dict[str, Any]]:
    """Entries of an index, with absolute paths.

    Raises:
        ValueError: missing file, or a line that is no `{path, duration}` with a duration above 0.
    """
    index = Path(index)
    if not index.is_file():
        raise ValueError(f"{index}: no such index. Make one with scripts/create_librilight_index.py.")
    entries = []
    lines = index.read_text(encoding="utf-8").split("\n")  # splitlines() would also split inside a path
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            entry = json.loads(line)
            path, duration_sec = entry["path"], float(entry["duration"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{index}:{number}: expected {{"path": ..., "duration": ...}}, got {line!r}.') from error
        if not isinstance(path, str) or not 0 < duration_sec < math.inf:
            raise ValueError(f"{index}:{number}: path must be a text and duration above 0 seconds; got {line!r}.")
        entries.append({**entry, "path": str((index.parent / path).resolve()), "duration": duration_sec})
    if not entries:
        raise ValueError(f"{index}: holds no entries.")
    return entries


def load_librilight(index: str | Path) -> Dataset:
    """An index of audiobooks as a dataset: `audio` (24 kHz, not decoded), `path`, `duration_sec`, `speaker`, `book`.

    Raises:
        ValueError: bad index, or too many missing files.
    """
    entries, bad = read_index(index), BadFiles()
    rows = []
    for entry in entries:
        path = Path(entry["path"])
        if not path.is_file():
            bad.add(path, "missing")
            continue
        speaker, book = path.parent.parent.name, path.parent.name
        rows.append({**_audio_columns(path, entry["duration"]), "speaker": speaker, "book": book})
    bad.require_few(len(entries))
    return _audio_dataset(rows, {"speaker": Value("string"), "book": Value("string")})


def load_dailytalk(index: str | Path) -> Dataset:
    """An index of conversations as a dataset: `audio`, `path`, `duration_sec`, and `alignments` in order of time.

    Raises:
        ValueError: bad index, or too many files that are missing or whose word times cannot be read.
    """
    entries, bad = read_index(index), BadFiles()
    rows = []
    for entry in entries:
        path = Path(entry["path"])
        try:
            words = read_alignments(path.with_suffix(".json"))
        except (OSError, ValueError) as error:
            bad.add(path, error)
            continue
        if not path.is_file():
            bad.add(path, "missing")
            continue
        rows.append({**_audio_columns(path, entry["duration"]), "alignments": words})
    bad.require_few(len(entries))
    return _audio_dataset(rows, {"alignments": ListFeature(_WORD)})


def read_alignments(path: str | Path) -> list[dict[str, Any]]:
    """Word times of `{"alignments": [[word, [start_sec, end_sec], speaker], ...]}`, in order of their starts.

    Raises:
        ValueError: another form, or a word that ends before it starts.
        OSError: the file cannot be read.
    """
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("alignments"), list):
        raise ValueError(f'{path}: expected {{"alignments": [[word, [start_sec, end_sec], speaker], ...]}}.')
    words = [_read_word(item, path) for item in content["alignments"]]
    return sorted(words, key=lambda word: word["start_sec"])


def _read_word(item: Any, path: str | Path) -> dict[str, Any]:
    try:
        word, (start, end), speaker = item
        start_sec, end_sec = float(start), float(end)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected [word, [start_sec, end_sec], speaker], got {item!r}.") from error
    if not 0 <= start_sec <= end_sec:
        raise ValueError(f"{path}: {word!r} from {start_sec} s to {end_sec} s is no span of time.")
    return {"word": str(word), "start_sec": start_sec, "end_sec": end_sec, "speaker": str(speaker)}


def _audio_columns(path: Path, duration_sec: float) -> dict[str, Any]:
    return {"audio": {"path": str(path), "bytes": None}, "path": str(path), "duration_sec": duration_sec}


def _audio_dataset(rows: list[dict[str, Any]], extra: dict[str, Any]) -> Dataset:
    stored = {"audio": {"path": Value("string"), "bytes": Value("binary")}}
    features = Features({**stored, "path": Value("string"), "duration_sec": Value("float64"), **extra})
    dataset = Dataset.from_list(rows, features=features)
    return dataset.cast_column("audio", Audio(sampling_rate=SAMPLE_RATE_HZ, decode=False))
