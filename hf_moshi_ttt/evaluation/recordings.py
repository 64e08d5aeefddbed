"""Which recordings are evaluated: books of chapters, single files or a given list, seeded and in a recorded order."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.codes import Provenance, load_codes
from ..data.corpora import load_librilight
from ..data.encoding import encode_corpus
from .long_context_settings import RecordingSettings


@dataclass(frozen=True)
class Recording:
    """Codes `[Q, T]` of one speaker or `[K, T]` of a conversation.

    Args:
        chapters: path and first frame of each part, in order.
    """

    name: str
    codes: np.ndarray
    chapters: Sequence[tuple[str, int]] = field(default_factory=tuple)

    @property
    def frames(self) -> int:
        """T."""
        return self.codes.shape[1]

    def description(self) -> dict[str, Any]:
        """What results say about it."""
        chapters = [{"path": path, "first_frame": first} for path, first in self.chapters]
        return {"name": self.name, "frames": self.frames, "chapters": chapters}


@dataclass(frozen=True)
class _Plan:
    """One recording to be: its name and the files it is made of, in order."""

    name: str
    paths: list[str]


def load_recordings(
    settings: RecordingSettings, codec: str | None = None, cache_dir: str | Path | None = None
) -> tuple[list[Recording], Provenance]:
    """The recordings that the settings name, in the order in which they are evaluated.

    Args:
        codec: encodes `librilight_audio_dir`: the model's own.
        cache_dir: folder for those codes; a second run finds them there.

    Raises:
        ValueError: no such book or recording, or fewer of them than asked for.
    """
    if settings.librilight_codes is not None:
        rows, provenance = load_codes(settings.librilight_codes)
        plans = plan_recordings(rows.remove_columns("codes").with_format(None).to_list(), settings)
    else:
        if codec is None or cache_dir is None:
            raise ValueError("librilight_audio_dir is encoded first: it needs a codec and a folder for the codes.")
        source, data_dir = str(settings.librilight_audio_dir), settings.librilight_data_dir
        corpus = load_librilight(source, data_dir=data_dir)
        files = [{"path": row["name"], **row} for row in corpus.select_columns(["name", "speaker", "book"])]
        plans = plan_recordings(files, settings)
        names = [path for plan in plans for path in plan.paths]
        rows, provenance = encode_files(source, names, codec, cache_dir, data_dir)
    places = {path: place for place, path in enumerate(rows["path"][:])}
    if len(places) < len(rows):
        raise ValueError(
            "Several rows of codes are windows of one file: encode whole files (hf-moshi-ttt prepare without "
            "--window-sec)."
        )
    _require_all(places, plans)
    return [_join(plan, rows, places, settings.max_sequence_length) for plan in plans], provenance


def plan_recordings(files: Sequence[Mapping[str, Any]], settings: RecordingSettings) -> list[_Plan]:
    """Which files make which recording.

    Args:
        files: `{path, speaker, book}` of each; speaker and book may be None.

    Raises:
        ValueError: no such book or recording, or fewer of them than asked for.
    """
    mode, wanted = settings.librilight_evaluation_mode, settings.librilight_num_sequences
    if settings.librilight_speaker_id is not None:
        files = [file for file in files if file.get("speaker") == settings.librilight_speaker_id]
        if not files:
            raise ValueError(f"librilight_speaker_id={settings.librilight_speaker_id!r}: no file of this speaker.")
    plans = _by_file(files) if mode == "chapters" else _by_book(files, settings.librilight_max_chapters)
    if mode == "single_book":
        plans = [plan for plan in plans if plan.name.rpartition("/")[2] == settings.librilight_book_name]
        if len(plans) != 1:
            raise ValueError(
                f"librilight_book_name={settings.librilight_book_name!r}: {len(plans)} books of this name; "
                "librilight_speaker_id chooses among several."
            )
    if mode == "list":
        plans = _listed({plan.name: plan for plan in [*_by_file(files), *plans]}, settings.librilight_recordings or [])
    if wanted is not None and wanted > len(plans):
        raise ValueError(f"librilight_num_sequences={wanted}, but there are {len(plans)} recordings.")
    if wanted is not None:
        drawn = np.random.default_rng(settings.seed).choice(len(plans), wanted, replace=False)
        plans = [plans[index] for index in drawn]
    return plans


def _by_file(files: Sequence[Mapping[str, Any]]) -> list[_Plan]:
    return [_Plan(file["path"], [file["path"]]) for file in sorted(files, key=_natural_order)]


def _by_book(files: Sequence[Mapping[str, Any]], max_chapters: int | None) -> list[_Plan]:
    """Chapters in the order of their names, numbers by value; a file without a book is a recording of its own."""
    books: dict[str, list[str]] = {}
    for file in sorted(files, key=_natural_order):
        name = f"{file['speaker']}/{file['book']}" if file.get("book") else file["path"]
        books.setdefault(name, []).append(file["path"])
    return [_Plan(name, paths[:max_chapters]) for name, paths in books.items()]


def _natural_order(file: Mapping[str, Any]) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file["path"])]


def _listed(plans: Mapping[str, _Plan], names: Sequence[str]) -> list[_Plan]:
    unknown = [name for name in names if name not in plans]
    if unknown:
        raise ValueError(f"librilight_recordings names {unknown}, but there are {sorted(plans)[:20]} (first 20).")
    return [plans[name] for name in names]


def encode_files(
    folder: str | Path, names: Iterable[str], codec: str, cache_dir: str | Path, data_dir: str | None = None
) -> tuple[Any, Provenance]:
    """Codes of some files of a folder or index and of no others; their `path` is the name in it.

    Args:
        data_dir: the folder that all files must lie in, links followed; None for `folder` or the index's own.
        cache_dir: keeps the codes; a second run finds them there.

    Raises:
        ValueError: files that are not there or cannot be encoded.
    """
    corpus, needed = load_librilight(folder, data_dir=data_dir), set(names)
    chosen = corpus.select([place for place, name in enumerate(corpus["name"]) if name in needed])
    key = hashlib.sha256(json.dumps([codec, str(folder), sorted(needed)]).encode()).hexdigest()[:16]
    encode_corpus(chosen, codec, Path(cache_dir, key), source=str(folder))
    return load_codes(Path(cache_dir, key))


def _require_all(places: Mapping[str, int], plans: Sequence[_Plan]) -> None:
    if not plans:
        raise ValueError("There are no recordings.")
    missing = [path for plan in plans for path in plan.paths if path not in places]
    if missing:
        raise ValueError(f"{missing[0]} and {len(missing) - 1} more have no codes: they could not be encoded.")


def _join(plan: _Plan, rows: Any, places: Mapping[str, int], max_frames: int | None) -> Recording:
    parts, chapters, frames = [], [], 0
    for path in plan.paths:
        codes = np.asarray(rows[places[path]]["codes"])
        if max_frames is not None and frames >= max_frames:
            break
        chapters.append((path, frames))
        parts.append(codes[:, : None if max_frames is None else max_frames - frames])
        frames += parts[-1].shape[1]
    return Recording(plan.name, np.concatenate(parts, axis=1), tuple(chapters))
