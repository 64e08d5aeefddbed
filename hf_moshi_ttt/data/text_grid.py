"""Praat's TextGrid files, long or short: interval tiers, one a speaker, as turns.

Praat reads from them only free-standing numbers, quoted texts and flags in `<>`; so does this. Of aligners that write
tiers `A - words` and `A - phones`, the words are taken. A tier whose intervals hold one word each gives words with
their times; the texts of others have to be aligned. Point tiers, and tiers that name no speaker, are not read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .text_files import read_text
from .transcripts import Labels, Turn, spoken, word_turns
from .word_times import MAIN_SPEAKER, OTHER_SPEAKER

_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<![^\s])(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![^\s])|(<\w+>)|![^\n]*')
_MOST_ITEMS = 1e9
_WORDS_TIER = re.compile(r"(?:(.*\S)\s+-\s+)?words?", re.I)
Interval = tuple[float, float, str]


@dataclass
class _Reader:
    """The values of a file, one after the other, each with the line that it begins in."""

    path: Path
    text: str

    def __post_init__(self) -> None:
        found = (match for match in _TOKEN.finditer(self.text) if match[0][0] != "!")
        self.values: Iterator[re.Match[str]] = found
        self.line = 1

    def _next(self, wanted: str, group: int) -> str:
        match = next(self.values, None)
        where = f"{self.path}:{self.line}"
        if match is None:
            raise ValueError(f"{where}: the file ends where {wanted} should follow.")
        self.line = self.text.count("\n", 0, match.start()) + 1
        if match[group] is None:
            raise ValueError(f"{where}: after this line {wanted} should follow, got {match[0]!r} in line {self.line}.")
        return match[group]

    def string(self) -> str:
        """The next value, which is a text."""
        return self._next("a text", 1).replace('""', '"')

    def number(self) -> float:
        """The next value, which is a number."""
        return float(self._next("a number", 2))

    def count(self) -> int:
        """The next value, which is a number of things."""
        value = self.number()
        if not 0 <= value < _MOST_ITEMS or value != int(value):
            raise ValueError(f"{self.path}:{self.line}: {value} is no count.")
        return int(value)

    def flag(self) -> str:
        """The next value, which is a flag."""
        return self._next("<exists> or <absent>", 3)


def read_text_grid(path: str | Path, labels: Labels) -> list[Turn]:
    """The turns of a TextGrid.

    Raises:
        ValueError: another form, or no tier for a speaker.
    """
    tiers = _tiers(_Reader(Path(path), read_text(path)))
    found = [(match[1], tier) for name, tier in tiers.items() if (match := _WORDS_TIER.fullmatch(name))]
    of_words = dict(found)
    if len(of_words) < len(found):
        raise ValueError(f"{path}: has two tiers of words for one speaker among {list(tiers)}: rename or remove one.")
    named = {name: tier for name, tier in (of_words or tiers).items() if labels.only or (name and labels.knows(name))}
    speakers = {name: labels.speaker(name, str(path)) for name in named}
    _require_tiers(path, list(tiers), list(speakers.values()), labels)
    return [turn for name, tier in named.items() for turn in _turns_of(tier, speakers[name])]


def _require_tiers(path: str | Path, names: list[str], speakers: list[str], labels: Labels) -> None:
    wanted = {labels.only} if labels.only else {MAIN_SPEAKER, OTHER_SPEAKER}
    if set(speakers) != wanted or len(speakers) > len(wanted):
        expected = "one" if labels.only else f"one for each channel, called {' or '.join(labels.names())}"
        raise ValueError(
            f"{path}: has the interval tiers {names}, but {expected} is expected. Give the names of others with "
            "--speakers LEFT,RIGHT."
        )


def _tiers(values: _Reader) -> dict[str, list[Interval]]:
    """The interval tiers by name."""
    if (kind := values.string()) != "ooTextFile" or (kind := values.string()) != "TextGrid":
        raise ValueError(f"{values.path}: not a TextGrid, but {kind!r}.")
    values.number(), values.number()
    count = values.count() if values.flag() == "<exists>" else 0
    tiers: dict[str, list[Interval]] = {}
    for _ in range(count):
        kind, name = values.string(), values.string()
        values.number(), values.number()
        items = range(values.count())
        if kind == "IntervalTier" and name in tiers:
            raise ValueError(f"{values.path}:{values.line}: a second tier is named {name!r}: rename one.")
        if kind == "IntervalTier":
            tiers[name] = [(values.number(), values.number(), values.string()) for _ in items]
        else:
            for _ in items:
                values.number(), values.string()
    return tiers


def _turns_of(tier: list[Interval], speaker: str) -> list[Turn]:
    """Words with times where no interval holds several, else texts to be aligned."""
    said = [(start, end, spoken(text)) for start, end, text in tier]
    if all(len(text.split()) <= 1 for _, _, text in said):
        return [turn for start, end, text in said for turn in word_turns(speaker, text, start, end)]
    return [Turn(speaker, text, (start, end)) for start, end, text in said if text]
