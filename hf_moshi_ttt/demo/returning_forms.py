"""Forms of speech in which what was said is said again: each makes an endless programme of the lines of a text."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice

from numpy.random import Generator

Lines = Iterator[str]
LINE_CHARS = (25, 110)
NAME_CHARS = 24


def lines_of(paragraphs: Sequence[str]) -> list[str]:
    """Sentences and clauses that can be said in one breath, in their order; what is longer or shorter is left out."""
    shortest, longest = LINE_CHARS
    pieces = (piece.strip(" \"'") for text in paragraphs for piece in re.split(r"(?<=[.!?;:])[\"']*\s+|—", text))
    return [piece for piece in pieces if shortest <= len(piece) <= longest]


def refrain(lines: Lines, rng: Generator) -> Lines:
    """One to four new lines, then the refrain; the recording has three refrains, in turn."""
    for again in cycle([next(lines) for _ in range(int(rng.integers(1, 4)))]):
        yield from islice(lines, int(rng.integers(1, 5)))
        yield again


def dictation(lines: Lines, rng: Generator) -> Lines:
    """Two to twelve new lines, then all of them again."""
    while True:
        block = list(islice(lines, int(rng.integers(2, 13))))
        yield from block
        yield from block


def cumulative(lines: Lines, rng: Generator) -> Lines:
    """A tale that adds a line to each verse and says all earlier ones again, from the newest back to the first."""
    while True:
        verse: list[str] = []
        for line in islice(lines, int(rng.integers(4, 8))):
            verse.insert(0, line)
            yield from verse


def roll(lines: Lines, rng: Generator) -> Lines:
    """A roll of six to sixteen short names that is called again and again, a new line or two between the calls."""
    names = [_name_of(line) for line in islice(lines, int(rng.integers(6, 17)))]
    while True:
        yield from names
        yield from islice(lines, int(rng.integers(1, 3)))


FORMS: dict[str, Callable[[Lines, Generator], Lines]] = {
    "refrain": refrain,
    "dictation": dictation,
    "cumulative": cumulative,
    "roll": roll,
}


def _name_of(line: str) -> str:
    """The first words of a line."""
    words, name = line.split(), ""
    for word in words:
        if name and len(name) + len(word) + 1 > NAME_CHARS:
            break
        name = f"{name} {word}".strip()
    return f"{name.rstrip(',;:.')}."
