"""Pairs of recordings of which one is right, read from the layouts in which the benchmarks are published.

- ZeroSpeech 2021 (sWUGGY, sBLIMP): `gold.csv` with `filename`, `id`, `voice`, `correct` beside the wavs.
- Numbered wavs (sWUGGY, sBLIMP, tStoryCloze, sStoryCloze), `12_*.wav` or `12+*.wav`, in one folder or in subfolders: in
  the order of their numbers a right one and its wrong partner alternate.
- SALMon: a folder a part, with `sample_12_0.wav` (right) and `sample_12_1.wav`.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TASKS = ("swuggy", "sblimp", "tstorycloze", "sstorycloze", "salmon")
_NUMBERED = re.compile(r"^(\d+)[_+.]")
_SAMPLE = re.compile(r"^sample_(\d+)_(\d+)\.wav$")


@dataclass(frozen=True)
class Pair:
    """Two files of which `right` should be the likelier; paths relative to the task's folder.

    Args:
        item: pairs of one item (a word in several voices) count as one.
        groups: names of the parts that the score is also given for.
    """

    item: str
    right: str
    wrong: str
    groups: tuple[str, ...] = ()


def read_pairs(task: str, folder: str | Path) -> list[Pair]:
    """All pairs of a task.

    Raises:
        ValueError: unknown task, no such folder, or a layout that is none of the published ones.
    """
    folder = Path(folder)
    if task not in TASKS:
        raise ValueError(f"task={task!r}, but it must be one of {', '.join(TASKS)}.")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of {task}.")
    if task == "salmon":
        pairs = _salmon(folder)
    elif (folder / "gold.csv").is_file():
        pairs = _zerospeech(folder)
    else:
        pairs = _numbered(folder)
    if not pairs:
        raise ValueError(f"{folder}: no pairs of {task}; expected gold.csv, numbered wavs, or SALMon's parts.")
    missing = [name for pair in pairs for name in (pair.right, pair.wrong) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} files of {task} are missing, such as {missing[0]}.")
    return pairs


def draw_items(pairs: Sequence[Pair], count: int | None, seed: int) -> list[Pair]:
    """The pairs of `count` items, drawn by seed and in their order; all of them for None.

    Raises:
        ValueError: fewer items than asked for.
    """
    items = list(dict.fromkeys(pair.item for pair in pairs))
    if count is None:
        return list(pairs)
    if not 1 <= count <= len(items):
        raise ValueError(f"{count} items were asked for, but there are {len(items)}.")
    drawn = {items[index] for index in np.random.default_rng(seed).choice(len(items), count, replace=False)}
    return [pair for pair in pairs if pair.item in drawn]


def _zerospeech(folder: Path) -> list[Pair]:
    """The i-th right line belongs to the i-th wrong one, as in the challenge's own evaluation."""
    with (folder / "gold.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lacking = {"filename", "id", "voice", "correct"} - set(rows[0] if rows else ())
    if lacking:
        raise ValueError(f"{folder / 'gold.csv'}: no columns {sorted(lacking)}.")
    sides = [[row for row in rows if row["correct"] == value] for value in ("1", "0")]
    pairs = []
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"{folder / 'gold.csv'}: {len(sides[0])} right lines, but {len(sides[1])} wrong ones.")
    for right, wrong in zip(*sides, strict=True):
        keys = [(row.get("type"), row.get("subtype"), row["id"], row["voice"]) for row in (right, wrong)]
        if keys[0] != keys[1]:
            raise ValueError(f"{folder / 'gold.csv'}: {right['filename']} and {wrong['filename']} are no pair.")
        item = "/".join(filter(None, keys[0][:3]))
        pairs.append(Pair(item, f"{right['filename']}.wav", f"{wrong['filename']}.wav", _groups(right)))
    return pairs


def _groups(row: dict[str, str]) -> tuple[str, ...]:
    """The kind of sentence; whether a word occurs in LibriSpeech."""
    if row.get("type"):
        return (row["type"],)
    if row.get("frequency") is not None:
        known = row["frequency"] not in ("", "oov") and float(row["frequency"]) > 0
        return ("in_vocabulary" if known else "out_of_vocabulary",)
    return ()


def _numbered(folder: Path) -> list[Pair]:
    pairs = []
    for place in sorted({path.parent for path in folder.rglob("*.wav")}):
        numbered: dict[int, Path] = {}
        for path in place.glob("*.wav"):
            match = _NUMBERED.match(path.name)
            if match is None or int(match[1]) in numbered:
                raise ValueError(f"{path}: its name must begin with a number of its own, as in 12_word.wav.")
            numbered[int(match[1])] = path
        files = [path.relative_to(folder).as_posix() for _, path in sorted(numbered.items())]
        if len(files) % 2:
            raise ValueError(f"{place}: {len(files)} files are no pairs.")
        groups = () if place == folder else (place.relative_to(folder).as_posix(),)
        pairs += [Pair(right, right, wrong, groups) for right, wrong in zip(files[::2], files[1::2], strict=True)]
    return pairs


def _salmon(folder: Path) -> list[Pair]:
    pairs = []
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        found = {(int(m[1]), int(m[2])): m[0] for m in _matches(_SAMPLE, (path.name for path in part.iterdir()))}
        for index in sorted({index for index, _ in found}):
            right, *wrong = (f"{part.name}/sample_{index}_{side}.wav" for side in (0, 1))
            pairs.append(Pair(right, right, wrong[0], (part.name,)))
    return pairs


def _matches(pattern: re.Pattern[str], names: Iterable[str]) -> list[re.Match[str]]:
    return [match for match in map(pattern.match, names) if match is not None]
