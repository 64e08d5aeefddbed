"""Datasets with a column of audio as corpora: of the Hub, of a folder (`audiofolder`), or one that is loaded already.

Audio is read by `audio_feature.py`, from files or from bytes that the dataset holds; of two channels the mean is
encoded. Words of such a dataset are not read: conversations with word times are files (`corpora.py`).
"""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from datasets import Audio, Dataset, Features, load_dataset, load_dataset_builder
from datasets.packaged_modules.audiofolder.audiofolder import AudioFolder

from ..codec.audio import read_header
from .audio_feature import SeekingAudio
from .bad_files import MAX_BAD_FRACTION, BadFiles
from .corpora import FEATURES

logger = logging.getLogger(__name__)

_SPEAKER_COLUMNS = ("speaker", "speaker_id")


def load_audio_dataset(
    name: str | Path,
    audio_column: str = "audio",
    subset: str | None = None,
    split: str = "train",
    max_bad_fraction: float = MAX_BAD_FRACTION,
    left_out: dict[str, str] | None = None,
) -> Dataset:
    """A corpus of what `datasets.load_dataset` finds under a name on the Hub or in a folder.

    Args:
        subset: the configuration of a dataset that has several.
        left_out: takes the rows that are left out, by name, each with its reason.

    Raises:
        ValueError: as `audio_corpus`, or no such split or subset.
        OSError: no such dataset.
    """
    if isinstance(load_dataset_builder(str(name), subset), AudioFolder):
        audio = Features({audio_column: SeekingAudio()})  # with a feature of datasets' own, torchcodec would be needed
        options = {"features": audio, "drop_labels": True, "drop_metadata": True}
        dataset = load_dataset("audiofolder", data_dir=str(name), split=split, **options)
    else:
        dataset = load_dataset(str(name), subset, split=split)
    return audio_corpus(dataset, audio_column, str(name), max_bad_fraction, left_out)


def audio_corpus(
    dataset: Dataset,
    audio_column: str = "audio",
    source: str = "dataset",
    max_bad_fraction: float = MAX_BAD_FRACTION,
    left_out: dict[str, str] | None = None,
) -> Dataset:
    """A corpus of the audio in a column of a dataset; rows whose audio cannot be read are left out.

    Args:
        source: what the dataset is called in messages.
        left_out: takes the rows that are left out, by name, each with its reason.

    Raises:
        ValueError: no such column, no audio in it, or too many rows that cannot be read.
    """
    columns = [name for name, feature in dataset.features.items() if isinstance(feature, Audio)]
    if audio_column not in columns:
        raise ValueError(
            f"{source}: {audio_column!r} is no column of audio; it has {columns or 'none'}, and the columns "
            f"{dataset.column_names}. Name one with --audio-column."
        )
    dataset = dataset.with_format(None).cast_column(audio_column, Audio(decode=False))
    names = _names(dataset.select_columns(audio_column), audio_column)
    speakers = [name for name in _SPEAKER_COLUMNS if name in dataset.column_names]

    def describe(row: dict[str, Any], index: int) -> dict[str, Any]:
        described: dict[str, Any] = dict.fromkeys(FEATURES)
        audio = row[audio_column]
        described |= {"audio": audio, "name": names[index], "path": audio["path"] or names[index], "start_sec": 0.0}
        described["speaker"] = str(row[speakers[0]]) if speakers else None
        try:
            content = audio["bytes"]
            described["duration_sec"] = read_header(audio["path"] if content is None else content).duration_sec
        except (OSError, ValueError) as error:
            described["title"] = str(error)
        return described

    corpus = dataset.map(
        describe, with_indices=True, remove_columns=dataset.column_names, features=FEATURES, desc="load"
    )
    return _without_bad_rows(corpus, source, max_bad_fraction, {} if left_out is None else left_out)


def _names(audio: Dataset, column: str) -> list[str]:
    """A name for each row: that of its file, with the row's number where it has none or several share it."""
    files = [Path(row[column]["path"] or "").name for row in audio]
    counts = Counter(files)
    return [
        name if name and counts[name] == 1 else f"{index:06d}-{name}".rstrip("-") for index, name in enumerate(files)
    ]


def _without_bad_rows(corpus: Dataset, source: str, max_bad_fraction: float, left_out: dict[str, str]) -> Dataset:
    bad = BadFiles()
    listed = corpus.select_columns(["name", "duration_sec", "title"])[:]
    for name, duration_sec, reason in zip(listed["name"], listed["duration_sec"], listed["title"], strict=True):
        if duration_sec is None:
            bad.add(name, reason)
    bad.require_few(len(corpus), max_bad_fraction)
    if not bad.reasons:
        return corpus
    if len(bad.reasons) == len(corpus):
        raise ValueError(f"{source}: no row can be used:{bad.listing()}")
    logger.warning("%s: %d of %d rows left out: %s", source, len(bad.reasons), len(corpus), bad.reasons)
    left_out |= bad.reasons
    return corpus.select([index for index, sec in enumerate(listed["duration_sec"]) if sec is not None])
