"""Each form says its lines again, where its name says so, and takes new lines in their order."""

from collections.abc import Iterator
from itertools import count, islice

import numpy as np
import pytest

from hf_moshi_ttt.demo.returning_forms import FORMS, NAME_CHARS, cumulative, dictation, lines_of, refrain, roll


def numbered() -> Iterator[str]:
    return (f"line {number}" for number in count())


def said(form: str, lines: int, seed: int = 0) -> list[str]:
    return list(islice(FORMS[form](numbered(), np.random.default_rng(seed)), lines))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_returns_and_goes_on(form: str) -> None:
    lines = said(form, 300)
    assert 0.2 < 1 - len(set(lines)) / len(lines) < 0.95
    assert len(set(lines[200:]) - set(lines[:200])) > 5 or form == "roll"
    assert lines == said(form, 300) and lines != said(form, 300, seed=1)


def test_refrains_take_turns_between_new_lines() -> None:
    lines = list(islice(refrain(numbered(), np.random.default_rng(0)), 100))
    refrains = [line for line in lines if lines.count(line) > 1]
    kinds = list(dict.fromkeys(refrains))
    assert kinds == [f"line {number}" for number in range(len(kinds))]
    assert refrains[: 2 * len(kinds)] == kinds * 2
    new = [line for line in lines if line not in kinds]
    assert new == [f"line {number}" for number in range(len(kinds), len(kinds) + len(new))]


def test_a_dictation_says_each_block_twice() -> None:
    lines = list(islice(dictation(numbered(), np.random.default_rng(0)), 100))
    block = lines.index("line 0", 1)
    assert lines[:block] == lines[block : 2 * block] and lines[2 * block] == f"line {block}"


def test_a_tale_goes_back_to_its_first_line() -> None:
    lines = list(islice(cumulative(numbered(), np.random.default_rng(0)), 10))
    numbers = [0, 1, 0, 2, 1, 0, 3, 2, 1, 0]
    assert lines == [f"line {number}" for number in numbers]


def test_a_roll_calls_short_names_in_one_order() -> None:
    source = (f"Mister Number {number}, who lived beyond the hills" for number in count())
    lines = list(islice(roll(source, np.random.default_rng(0)), 60))
    names = list(dict.fromkeys(line for line in lines if lines.count(line) > 1))
    assert 6 <= len(names) <= 16 and names[0] == "Mister Number 0, who."
    assert all(len(name) <= NAME_CHARS + 1 for name in names)
    again = lines.index(names[0], 1)
    assert lines[again : again + len(names)] == names


def test_lines_are_sentences_and_clauses_of_a_breath() -> None:
    text = 'He was gone. "I will not be persuaded to it; no, not for the world!" Why? ' + "A" * 120 + "."
    assert lines_of([text]) == ["I will not be persuaded to it;", "no, not for the world!"][:1]
