"""Single chances laid out by hand: what counts as a takeover, a backchannel, an answer."""

import numpy as np
import pytest

from hf_moshi_ttt.evaluation.speech_times import Word
from hf_moshi_ttt.evaluation.turn_outcomes import Outcomes, find_outcomes, is_backchannel, is_takeover

NOTHING = np.zeros((0, 2))


@pytest.mark.parametrize(
    ("length_sec", "words", "backchannel", "takeover"),
    [
        (0.99, None, True, False), (1.0, None, False, True), (0.5, 2, True, False), (0.5, 3, False, False),
        (0.5, 4, False, True), (1.0, 0, False, True), (0.0, 0, True, False),
    ],
)  # fmt: skip
def test_the_thresholds_are_those_of_the_benchmark(
    length_sec: float, words: int | None, backchannel: bool, takeover: bool
) -> None:
    assert (is_backchannel(length_sec, words), is_takeover(length_sec, words)) == (backchannel, takeover)


def outcome_of(
    user: list[list[float]], model: list[list[float]], words: list[Word] | None = None, end: float = 20.0
) -> Outcomes:
    return find_outcomes(np.array(user).reshape(-1, 2), np.array(model).reshape(-1, 2), end, words)


def test_words_make_a_short_utterance_a_takeover() -> None:
    many = [Word(letter, 3.5 + 0.1 * place, 3.6 + 0.1 * place) for place, letter in enumerate("abcd")]
    short = outcome_of([[0, 3]], [[3.5, 4.2]])
    assert short.responses == [0, 1] and outcome_of([[0, 3]], [[3.5, 4.2]], many).responses == [1, 1]
    inside = outcome_of([[0, 8]], [[3.5, 4.2]], many)
    assert len(inside.backchannels) == 0 and len(outcome_of([[0, 8]], [[3.5, 4.2]]).backchannels) == 1


def test_a_short_utterance_in_silence_is_no_backchannel() -> None:
    assert len(outcome_of([[0, 3]], [[5, 5.5]]).backchannels) == 0


@pytest.mark.parametrize(("start", "answered"), [(7.9, 1), (8.1, 0)])
def test_an_answer_comes_within_five_seconds(start: float, answered: int) -> None:
    assert outcome_of([[0, 3]], [[start, start + 2]]).responses == [answered, 1]


def test_an_answer_after_the_users_next_turn_is_none() -> None:
    assert outcome_of([[0, 3], [5, 7]], [[7.5, 9]]).responses == [1, 2]


def test_an_early_answer_has_no_delay() -> None:
    assert outcome_of([[0, 3]], [[2.8, 5]]).response_delays_sec == [0.0]


@pytest.mark.parametrize(("end", "chances"), [(3.9, 0), (4.0, 1)])
def test_a_turn_at_the_very_end_is_no_chance(end: float, chances: int) -> None:
    assert outcome_of([[0, 3]], [], end=end).responses == [0, chances]


@pytest.mark.parametrize(("silence", "pauses"), [(0.2, 0), (0.21, 1), (0.99, 1), (1.0, 0)])
def test_a_pause_lasts_from_200_ms_to_a_second(silence: float, pauses: int) -> None:
    assert outcome_of([[0, 3], [3 + silence, 6]], []).pause_takeovers == [0, pauses]


def test_two_silent_sides_give_no_chance() -> None:
    found = find_outcomes(NOTHING, NOTHING, 10.0)
    assert found.responses == found.pause_takeovers == [0, 0] and found.duration_sec == 10.0
