"""Corpora of recordings as `datasets`: LibriLight's audiobooks, DailyTalk's conversations, and mixtures of them.

A row is a recording or, after `windows`, a part of one; all corpora have the same columns:

| column | meaning |
| --- | --- |
| `audio` | the file, `SeekingAudio` at 24 kHz; `row["audio"].read(start_sec, duration_sec)` seeks |
| `path`, `name` | path of the file, absolute and as in the index |
| `start_sec`, `duration_sec` | the part of the file that the row is |
| `speaker`, `book`, `title`, `snr` | what the index says, or None |
| `main_channel` | 0 or 1: Moshi's channel of a conversation; None for audiobooks, whose channels are mixed |
| `alignments` | words `{word, start_sec, end_sec, speaker}` from the row's start on; None for audio without words |
| `labelled_until_sec` | up to where `alignments` lists every word, from the row's start on |
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, Features, IterableDataset, Value
from datasets import List as ListFeature
from tqdm.auto import tqdm

from ..codec.audio import BadAudioError, audio_duration_sec, read_header, sec_from_frames
from .audio_feature import SeekingAudio
from .bad_files import MAX_BAD_FRACTION, BadFiles, missing, require_inside
from .index import IndexOptions, IndexSummary, read_index, scan_folder
from .mixture import mix
from .tables import dataset_of
from .word_times import (
    MAIN_SPEAKER,
    OTHER_SPEAKER,
    WordTimes,
    name_main_speaker,
    read_word_times,
    swap_speakers,
    within_audio,
)

logger = logging.getLogger(__name__)

KINDS = ("librilight", "dailytalk")
LEAD_SEC = 10.0
"""How far before a window words are kept: tokens that wait for a free frame never wait longer."""
MOST_STREAM_SHARDS = 64
_DETECTED_FILES = 20
_READERS = 8
_DURATION_TOLERANCE_SEC = sec_from_frames(1)
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
    left_out: dict[str, str] | None = None,
) -> Dataset | IterableDataset:
    """Audiobooks of an index or a folder.

    Args:
        data_dir: the folder that all files must lie in, None for the index's own.
        max_bad_fraction: fraction of files that may be unusable; they are left out.
        streaming: whether an `IterableDataset` is wanted.
        left_out: takes the files that are left out, each with its reason.

    Raises:
        ValueError: bad index, or too many unusable files.
    """
    return _load(source, None, data_dir, max_bad_fraction, streaming, left_out)


def load_dailytalk(
    source: str | Path,
    *,
    swap: bool = False,
    main_speaker: str | None = None,
    data_dir: str | Path | None = None,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    streaming: bool = False,
    left_out: dict[str, str] | None = None,
) -> Dataset | IterableDataset:
    """Two-channel conversations of an index or a folder, with the word times beside each file.

    Args:
        swap: whether the right channel is Moshi and the left the user, in audio and words; otherwise left is Moshi.
        main_speaker: how the words of the left channel are labelled; None for SPEAKER_MAIN or, with a warning, the one
            label there is.

    Raises:
        ValueError: bad index, too many files that are unusable or whose word times cannot be read, or labels that do
            not say whose words the left channel's are.
    """
    return _load(source, 1 if swap else 0, data_dir, max_bad_fraction, streaming, left_out, main_speaker)


def load_corpus(
    source: str | Path | Mapping[str, float], kind: str | None = None, *, seed: int = 0, **options: Any
) -> Dataset | IterableDataset:
    """A corpus of either kind, or a weighted mixture `{source: fraction of the time}` of several.

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
    for option in ("swap", "main_speaker"):
        if options.pop(option, None):
            raise ValueError(f"{source}: {option} is for conversations, but the kind is librilight.")
    return load_librilight(source, **options)


def detect_kind(source: str | Path, data_dir: str | Path | None = None) -> str:
    """`"dailytalk"` if the first files have two channels and word times, `"librilight"` if they have neither.

    Where they have only one of the two, or differ, the kind's word in the name of the index or folder decides, with a
    warning.

    Raises:
        ValueError: such a corpus whose name does not decide.
    """
    entries = list_entries(source, BadFiles(), data_dir)[:_DETECTED_FILES]
    stereo = [entry["name"] for entry in entries if _channels(entry["path"]) == 2]
    with_words = [entry["name"] for entry in entries if _has_word_times(Path(entry["path"]))]
    if len(stereo) == len(with_words) and len(with_words) in (0, len(entries)):
        return "dailytalk" if with_words else "librilight"
    facts = (
        f"{source}: of the first {len(entries)} files {len(stereo)} have two channels and {len(with_words)} have word "
        "times beside them"
    )
    named = [kind for kind in KINDS if kind in Path(source).name.lower()]
    if len(named) != 1:
        raise ValueError(
            f"{facts}; say which kind it is: librilight (no words, channels are mixed) or dailytalk (conversations, "
            "whose word times hf-moshi-ttt annotate makes)."
        )
    logger.warning("%s; its name decides: %s.", facts, named[0])
    return named[0]


def windows(
    corpus: Dataset | IterableDataset, duration_sec: float, overlap_sec: float = 0.0
) -> Dataset | IterableDataset:
    """Rows cut into windows of `duration_sec`, the last of each shorter; nothing is read for it.

    They are without a format, whatever that of `corpus`: in NumPy's and torch's times would be float32.

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

    return corpus.with_format(None).map(cut, batched=True, features=FEATURES)


def _windows_of(row: dict[str, Any], duration_sec: float, overlap_sec: float) -> list[dict[str, Any]]:
    """The windows of one row; one that would hold only overlap is left out."""
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


class _File(NamedTuple):
    """A file of an entry: its row, still without words, and its words, None for audio alone."""

    row: dict[str, Any]
    times: WordTimes | None
    indexed_sec: float


def _load(
    source: str | Path,
    main_channel: int | None,
    data_dir: str | Path | None,
    max_bad_fraction: float,
    streaming: bool,
    left_out: dict[str, str] | None,
    main_speaker: str | None = None,
) -> Dataset | IterableDataset:
    bad = BadFiles()
    entries = list_entries(source, bad, data_dir)
    total = len(entries) + len(bad.reasons)
    files = _read_files(entries, main_channel is not None, data_dir or _folder_of(source), bad)
    bad.require_few(total, max_bad_fraction)
    if not files:
        raise ValueError(f"{source}: no file can be used:{bad.listing()}")
    if bad.reasons:
        logger.warning("%s: %d of %d files left out: %s", source, len(bad.reasons), total, bad.reasons)
    if left_out is not None:
        left_out |= bad.reasons
    _warn_of_lengths(source, files)
    if main_channel is not None:
        _add_words(source, files, main_channel, main_speaker)
    dataset = dataset_of((file.row for file in files), FEATURES)
    return _stream(dataset) if streaming else dataset


def _read_files(entries: list[dict[str, Any]], with_words: bool, data_dir: str | Path, bad: BadFiles) -> list[_File]:
    """What can be used of some entries, in order; what cannot is added to `bad`."""

    def read(entry: dict[str, Any]) -> _File | Exception:
        try:
            row = _row(entry)
            times = _words_of(entry, data_dir, row["duration_sec"]) if with_words else None
            return _File(row, times, entry["duration"])
        except (OSError, ValueError) as error:
            return error

    files = []
    with ThreadPoolExecutor(_READERS) as pool:
        found = tqdm(pool.map(read, entries), "load", len(entries), unit="file", disable=len(entries) < 1000)
        for entry, file in zip(entries, found, strict=True):
            if isinstance(file, Exception):
                bad.add(entry["path"], file)
            else:
                files.append(file)
    return files


def _warn_of_lengths(source: str | Path, files: list[_File]) -> None:
    differ = [file for file in files if abs(file.indexed_sec - file.row["duration_sec"]) > _DURATION_TOLERANCE_SEC]
    if differ:
        (row, _, indexed_sec), count = differ[0], len(differ)
        example = f"{row['path']} holds {row['duration_sec']:.3f} s, not {indexed_sec} s"
        logger.warning("%s: %d files are not as long as it says: %s. Make it again.", source, count, example)


def _add_words(source: str | Path, files: list[_File], main_channel: int, main_speaker: str | None) -> None:
    """Completes rows with their words, those of Moshi's channel as the main speaker's."""
    timed = [(file.row, file.times) for file in files if file.times is not None]
    main = _main_label(source, {word["speaker"] for _, times in timed for word in times.words}, main_speaker)
    left_out = [f"{row['path']}: {reason}" for row, times in timed for reason in times.left_out]
    beyond_end = [f"{row['path']}: {reason}" for row, times in timed for reason in times.beyond_end]
    for where, reasons in (("", left_out), (" beyond the end of their audio", beyond_end)):
        if reasons:
            logger.warning("%s: %d words%s left out, e.g. %s", source, len(reasons), where, reasons[0])
    for row, times in timed:
        named = name_main_speaker(times, main)
        named = swap_speakers(named) if main_channel == 1 else named
        row |= {"main_channel": main_channel, "alignments": named.words}
        row["labelled_until_sec"] = named.labelled_until_sec


def _main_label(source: str | Path, labels: set[str], wanted: str | None) -> str:
    """The label of the words that are spoken in the left channel."""
    if wanted is not None:
        if labels and wanted not in labels:
            raise ValueError(f"{source}: main_speaker={wanted!r}, but the words are labelled {sorted(labels)[:20]}.")
        return wanted
    if not labels or labels & {MAIN_SPEAKER, OTHER_SPEAKER}:
        return MAIN_SPEAKER
    if len(labels) > 1:
        raise ValueError(
            f"{source}: the words are labelled {sorted(labels)[:20]}, none {MAIN_SPEAKER}; say with main_speaker whose "
            "words are those of the left channel."
        )
    (label,) = labels
    logger.warning("%s: all words are labelled %s: taken for those of the left channel.", source, label)
    return label


def _stream(dataset: Dataset) -> IterableDataset:
    """In shards, so that data workers and ranks can share them."""
    return dataset.to_iterable_dataset(num_shards=min(MOST_STREAM_SHARDS, max(1, len(dataset))))


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    """The row of an entry, without words; the length is the file's own, but of one that only encoding can report."""
    path = Path(entry["path"])
    if not path.is_file():
        raise ValueError(missing(path))
    duration_sec = entry["duration"]
    if not entry.get("is_measured"):
        with suppress(BadAudioError):
            duration_sec = audio_duration_sec(path)
    row: dict[str, Any] = dict.fromkeys(FEATURES)
    row |= {key: entry[key] for key in ("path", "name", "speaker", "book", "title", "snr") if key in entry}
    return row | {"audio": str(path), "start_sec": 0.0, "duration_sec": duration_sec}


def _words_of(entry: dict[str, Any], data_dir: str | Path, duration_sec: float) -> WordTimes:
    beside = Path(entry["path"]).with_suffix(".json")
    require_inside(beside, data_dir)
    if not beside.exists():
        raise ValueError(f"no word times: there is no {beside.name} beside it. Make it with hf-moshi-ttt annotate.")
    return within_audio(beside, read_word_times(beside), duration_sec)


def _channels(path: str | Path) -> int | None:
    """How many channels a file has, None for one that cannot be read, which loading reports."""
    try:
        return read_header(path).channels
    except BadAudioError:
        return None


def _folder_of(source: str | Path) -> Path:
    return Path(source) if Path(source).is_dir() else Path(source).parent


def _has_word_times(path: Path) -> bool:
    try:
        return b'"alignments"' in path.with_suffix(".json").read_bytes()
    except OSError:
        return False


def list_entries(source: str | Path, bad: BadFiles, data_dir: str | Path | None) -> list[dict[str, Any]]:
    """Entries of an index, of the one index that lies in a folder, or of the audio files of a folder without one.

    Each has an absolute `path`, a `name` relative to the index or folder, and a `duration` in seconds, which
    `is_measured` if it was read from the file.

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
    entries = scan_folder(root, IndexOptions(data_dir=data_dir), summary, progress=False)
    if summary.filtered:
        logger.warning("%s: left out: %s", source, dict(summary.filtered))
    found = {"is_measured": True}
    return [{**entry, **found, "name": entry["path"], "path": str(root / entry["path"])} for entry in entries]
