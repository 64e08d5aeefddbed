"""Corpora of recordings as `datasets`: LibriLight's audiobooks, DailyTalk's conversations, and mixtures of them.

A row is a recording or, after `windows`, a part of one; all corpora have the same columns:

| column | meaning |
| --- | --- |
| `audio` | the file, `SeekingAudio` at 24 kHz; `row["audio"].read(start_sec, duration_sec)` seeks |
| `path`, `name` | where it lies, absolute and as in the index |
| `start_sec`, `duration_sec` | the part of the file that the row is |
| `speaker`, `book`, `title`, `snr` | what the index says, or None |
| `main_channel` | 0 or 1: Moshi's channel of a conversation; None for audiobooks, whose channels are mixed |
| `alignments` | words `{word, start_sec, end_sec, speaker}` from the row's start on; None for audio alone |
| `labelled_until_sec` | up to where `alignments` lists every word, from the row's start on |
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, Value
from datasets import List as ListFeature
from tqdm.auto import tqdm

from .audio_feature import SeekingAudio
from .bad_files import MAX_BAD_FRACTION, BadFiles, require_inside
from .index import IndexOptions, IndexSummary, read_index, scan_folder
from .mixture import mix
from .word_times import read_word_times, swap_speakers

logger = logging.getLogger(__name__)

KINDS = ("librilight", "dailytalk")
LEAD_SEC = 10.0
"""How far before a window words are kept: tokens that wait for a free frame never wait longer."""
MOST_STREAM_SHARDS = 64
_DETECTED_FILES = 20
_WORD = {
    "word": Value("string"),
    "start_sec": Value("float64"),
    "end_sec": Value("float64"),
    "speaker": Value("string"),
}
FEATURES = Features(
    {
        "audio": SeekingAudio(),
        "path": Value("string"),
        "name": Value("string"),
        "start_sec": Value("float64"),
        "duration_sec": Value("float64"),
        "speaker": Value("string"),
        "book": Value("string"),
        "title": Value("string"),
        "snr": Value("float64"),
        "main_channel": Value("int8"),
        "alignments": ListFeature(_WORD),
        "labelled_until_sec": Value("float64"),
    }
)


def load_librilight(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Audiobooks of an index or a folder.

    Args:
        data_dir: the folder that all files must lie in, None for the index's own.
        max_bad_fraction: the share of files that may be unusable; they are left out.
        streaming: whether an `IterableDataset` is wanted.

    Raises:
        ValueError: bad index, or too many unusable files.
    """
    return _load(source, None, data_dir, max_bad_fraction, streaming)


def load_dailytalk(
    source: str | Path,
    *,
    swap: bool = False,
    data_dir: str | Path | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Two-channel conversations of an index or a folder, with the word times beside each file.

    Args:
        swap: whether the right channel is Moshi and the left the user, in audio and words; otherwise left is Moshi.

    Raises:
        ValueError: bad index, or too many files that are unusable or whose word times cannot be read.
    """
    return _load(source, 1 if swap else 0, data_dir, max_bad_fraction, streaming)


def load_corpus(
    source: str | Path | Mapping[str, float], kind: str | None = None, *, seed: int = 0, **options: Any
) -> Dataset | IterableDataset:
    """A corpus of either kind, or a weighted mixture `{source: share of the time}` of several.

    Args:
        kind: `"librilight"` or `"dailytalk"`; None asks `detect_kind`.
        seed: of the mixture's draws.
        options: those of `load_librilight` or `load_dailytalk`.

    Raises:
        ValueError: unknown kind, or as from those.
    """
    if isinstance(source, Mapping):
        streaming = options.pop("streaming", False)
        parts = [load_corpus(part, kind, **options) for part in source]
        mixture = mix(parts, list(source.values()), seed)
        return _stream(mixture) if streaming else mixture
    kind = detect_kind(source, options.get("data_dir")) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}, but it must be one of {', '.join(KINDS)}.")
    if kind == "dailytalk":
        return load_dailytalk(source, **options)
    if options.pop("swap", False):
        raise ValueError(f"{source}: swap is for conversations, but the kind is librilight.")
    return load_librilight(source, **options)


def detect_kind(source: str | Path, data_dir: str | Path | None = None) -> str:
    """`"librilight"` (audio alone) if the path contains that word or no file has word times, `"dailytalk"` if all have.

    The first files are looked at.

    Raises:
        ValueError: some of them have word times and some have not.
    """
    if "librilight" in str(source).lower():
        return "librilight"
    entries = list_entries(source, BadFiles(), data_dir)[:_DETECTED_FILES]
    with_words = [entry["name"] for entry in entries if _has_word_times(Path(entry["path"]))]
    if with_words and len(with_words) < len(entries):
        raise ValueError(
            f"{source}: {len(with_words)} of the first {len(entries)} files have word times beside them, e.g. "
            f"{with_words[0]}; say which kind it is: {' or '.join(KINDS)}."
        )
    return "dailytalk" if with_words else "librilight"


def windows(
    corpus: Dataset | IterableDataset, duration_sec: float, overlap_sec: float = 0.0
) -> Dataset | IterableDataset:
    """Rows cut into windows of `duration_sec`, the last of each shorter; nothing is read for it.

    Raises:
        ValueError: a window that does not move on.
    """
    if not 0 <= overlap_sec < duration_sec:
        raise ValueError(
            f"duration_sec={duration_sec} and overlap_sec={overlap_sec}, but the overlap must be 0 or more and shorter "
            "than the window."
        )

    def cut(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        pieces = [piece for row in rows for piece in _windows_of(row, duration_sec, overlap_sec)]
        return {key: [piece[key] for piece in pieces] for key in batch}

    return corpus.map(cut, batched=True, features=FEATURES)


def _windows_of(row: dict[str, Any], duration_sec: float, overlap_sec: float) -> list[dict[str, Any]]:
    """The windows of one row; one that would lie in the overlap alone is left away."""
    pieces, start_sec, number = [], 0.0, 0
    while number == 0 or start_sec + overlap_sec < row["duration_sec"]:
        length_sec = min(duration_sec, row["duration_sec"] - start_sec)
        piece = {**row, "start_sec": row["start_sec"] + start_sec, "duration_sec": length_sec}
        if row["alignments"] is not None:
            piece["alignments"] = [
                {**word, "start_sec": word["start_sec"] - start_sec, "end_sec": word["end_sec"] - start_sec}
                for word in row["alignments"]
                if start_sec - LEAD_SEC <= word["start_sec"] < start_sec + length_sec
            ]
            piece["labelled_until_sec"] = max(0.0, row["labelled_until_sec"] - start_sec)
        pieces.append(piece)
        number += 1
        start_sec = number * (duration_sec - overlap_sec)
    return pieces


def _load(
    source: str | Path, main_channel: int | None, data_dir: str | Path | None, max_bad_fraction: float, streaming: bool
) -> Dataset | IterableDataset:
    bad = BadFiles()
    entries = list_entries(source, bad, data_dir)
    total = len(entries) + len(bad.reasons)
    rows = []
    for entry in tqdm(entries, desc="load", unit="file", disable=len(entries) < 1000):
        try:
            rows.append(_row(entry, main_channel, data_dir or _folder_of(source)))
        except (OSError, ValueError) as error:
            bad.add(entry["path"], error)
    bad.require_few(total, max_bad_fraction)
    if bad.reasons:
        logger.warning("%s: %d of %d files left out: %s", source, len(bad.reasons), total, bad.reasons)
    dataset = Dataset.from_list(rows, features=FEATURES)
    return _stream(dataset) if streaming else dataset


def _stream(dataset: Dataset) -> IterableDataset:
    """In shards, so that data workers and ranks can share them."""
    return dataset.to_iterable_dataset(num_shards=min(MOST_STREAM_SHARDS, max(1, len(dataset))))


def _row(entry: dict[str, Any], main_channel: int | None, data_dir: str | Path) -> dict[str, Any]:
    path = Path(entry["path"])
    if not path.is_file():
        raise ValueError("missing")
    row: dict[str, Any] = dict.fromkeys(FEATURES)
    row |= {key: entry[key] for key in ("path", "name", "speaker", "book", "title", "snr") if key in entry}
    row |= {"audio": str(path), "start_sec": 0.0, "duration_sec": entry["duration"], "main_channel": main_channel}
    if main_channel is not None:
        beside = path.with_suffix(".json")
        require_inside(beside, data_dir)
        times = read_word_times(beside)
        times = swap_speakers(times) if main_channel == 1 else times
        row |= {"alignments": times.words, "labelled_until_sec": times.labelled_until_sec}
    return row


def _folder_of(source: str | Path) -> Path:
    return Path(source) if Path(source).is_dir() else Path(source).parent


def _has_word_times(path: Path) -> bool:
    try:
        return b'"alignments"' in path.with_suffix(".json").read_bytes()
    except OSError:
        return False


def list_entries(source: str | Path, bad: BadFiles, data_dir: str | Path | None) -> list[dict[str, Any]]:
    """Entries of an index, of the one index that lies in a folder, or of the audio files of a folder without one.

    Each has an absolute `path`, a `name` relative to the index or folder, and a `duration` in seconds.

    Raises:
        ValueError: missing or empty index, a folder with several indexes, or without audio.
    """
    if not Path(source).is_dir():
        return read_index(source, bad, data_dir)
    indexes = sorted(Path(source).glob("*.jsonl"))
    if len(indexes) > 1:
        raise ValueError(f"{source}: holds several indexes ({', '.join(path.name for path in indexes)}); name one.")
    if indexes:
        return read_index(indexes[0], bad, data_dir)
    root, summary = Path(source).resolve(), IndexSummary(bad=bad)
    entries = scan_folder(root, IndexOptions(), summary, progress=False)
    return [{**entry, "name": entry["path"], "path": str(root / entry["path"])} for entry in entries]
