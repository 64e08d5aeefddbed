"""What one speaker does at each chance that the other gives: waits, answers, yields, goes on, says "mhm".

The chances follow from the user's channel, so a model and a human are judged at the same ones. The thresholds are those
of Full-Duplex-Bench (Lin et al. 2025, arXiv 2503.04721 and 2507.23159, and its evaluation scripts):

| word             | meaning                                                                                  |
| ---------------- | ---------------------------------------------------------------------------------------- |
| utterance        | the model's speech with silences of up to 0.5 s filled                                   |
| backchannel      | an utterance below 1 s, of at most 2 words if known, that begins inside the user's turn  |
| takeover         | an utterance of 1 s or more, or of more than 3 words                                     |
| turn of the user | speech with silences below 1 s filled                                                    |
| pause            | a silence of more than 0.2 s inside a user's turn                                        |
| turn end         | the end of a user's turn with 1 s of the user's silence after it                         |
| interruption     | a user's turn of 1 s or more that begins while the model speaks                          |

At a pause the question is whether a takeover touches it. At a turn end the response is the first takeover that ends
after it, up to the user's next turn and at most 5 s; its delay is 0 where it began before, as in the benchmark. An
utterance that was there before the user's turn began, and never stopped, answers with delay 0 too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .speech_times import Word, joined
from .turn_events import IPU_SILENCE_SEC

UTTERANCE_SILENCE_SEC = 0.5
TURN_SILENCE_SEC = 1.0
SHORT_SEC = 1.0
BACKCHANNEL_WORDS, TAKEOVER_WORDS = 2, 3
RESPONSE_SEC = 5.0
_EXACT_SEC = 1e-6
RATES = {
    "pause_takeover_rate": "pause_takeovers",
    "response_rate": "responses",
    "interruption_yield_rate": "interruption_yields",
    "interruption_response_rate": "interruption_responses",
    "backchannel_hold_rate": "backchannel_holds",
}
DELAYS = {
    "response_delay": "response_delays_sec",
    "stop_delay": "stop_delays_sec",
    "interruption_delay": "interruption_delays_sec",
}
"""Numbers, and the fields of `Outcomes` that they are made from."""


@dataclass
class Outcomes:
    """What happened in one conversation; counts are `[how often, of how many chances]`, delays are in seconds.

    Args:
        pause_takeovers: pauses of the user in which the model took the turn.
        responses: turn ends of the user that the model answered, interruptions left out.
        interruption_yields: interruptions during which the model stopped.
        interruption_responses: interruptions that the model answered after their end.
        backchannel_holds: the user's short utterances while the model spoke, after which it still spoke.
        backchannels: the model's, `[N, 2]` in seconds.
        duration_sec: of the conversation.
    """

    pause_takeovers: list[int] = field(default_factory=lambda: [0, 0])
    responses: list[int] = field(default_factory=lambda: [0, 0])
    interruption_yields: list[int] = field(default_factory=lambda: [0, 0])
    interruption_responses: list[int] = field(default_factory=lambda: [0, 0])
    backchannel_holds: list[int] = field(default_factory=lambda: [0, 0])
    response_delays_sec: list[float] = field(default_factory=list)
    stop_delays_sec: list[float] = field(default_factory=list)
    interruption_delays_sec: list[float] = field(default_factory=list)
    backchannels: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    duration_sec: float = 0.0


def words_within(words: Sequence[Word] | None, start_sec: float, end_sec: float) -> int | None:
    """How many words begin in a span of time, up to half an utterance's silence outside it; None where unknown."""
    if words is None:
        return None
    slack = UTTERANCE_SILENCE_SEC / 2
    return sum(start_sec - slack <= word.start_sec <= end_sec + slack for word in words)


def is_backchannel(length_sec: float, words: int | None) -> bool:
    """Whether something short enough to be a backchannel was said."""
    return length_sec < SHORT_SEC - _EXACT_SEC and (words is None or words <= BACKCHANNEL_WORDS)


def is_takeover(length_sec: float, words: int | None) -> bool:
    """Whether what was said takes the turn."""
    return length_sec >= SHORT_SEC - _EXACT_SEC or (words is not None and words > TAKEOVER_WORDS)


def find_outcomes(
    user_N2: np.ndarray, model_N2: np.ndarray, duration_sec: float, words: Sequence[Word] | None = None
) -> Outcomes:
    """What the model does at each chance that the user gives.

    Args:
        user_N2, model_N2: speech of both.
        words: the model's, None where unknown.
    """
    turns = joined(user_N2, TURN_SILENCE_SEC - 2 * _EXACT_SEC)
    spoken = joined(model_N2, UTTERANCE_SILENCE_SEC)
    counts = [words_within(words, *utterance) for utterance in spoken]
    lengths = spoken[:, 1] - spoken[:, 0]
    takes = np.array([is_takeover(*both) for both in zip(lengths, counts, strict=True)], bool)
    short = np.array([is_backchannel(*both) for both in zip(lengths, counts, strict=True)], bool)
    found = Outcomes(duration_sec=duration_sec)
    found.backchannels = spoken[short & _begins_in(spoken, turns)]
    for start, end in _pauses(user_N2, turns):
        _count(found.pause_takeovers, bool((takes & (spoken[:, 0] < end) & (spoken[:, 1] > start)).any()))
    for place, (start, end) in enumerate(turns):
        following = turns[place + 1, 0] if place + 1 < len(turns) else duration_sec
        speaking = spoken[(spoken[:, 0] < start) & (spoken[:, 1] > start)]
        is_short = is_backchannel(end - start, None)
        if len(speaking) and is_short:
            _count(found.backchannel_holds, speaking[0, 1] > end)
        if len(speaking) and not is_short:
            _count(found.interruption_yields, speaking[0, 1] <= end)
            if speaking[0, 1] <= end:
                found.stop_delays_sec.append(float(speaking[0, 1] - start))
        if following - end >= TURN_SILENCE_SEC - 2 * _EXACT_SEC and not (len(speaking) and is_short):
            _answer(found, spoken[takes], end, min(following, end + RESPONSE_SEC), bool(len(speaking)))
    return found


def _answer(found: Outcomes, takeovers_N2: np.ndarray, end_sec: float, until_sec: float, interrupted: bool) -> None:
    answers = takeovers_N2[(takeovers_N2[:, 1] > end_sec + _EXACT_SEC) & (takeovers_N2[:, 0] < until_sec)]
    _count(found.interruption_responses if interrupted else found.responses, bool(len(answers)))
    if len(answers):
        delays = found.interruption_delays_sec if interrupted else found.response_delays_sec
        delays.append(max(0.0, float(answers[0, 0] - end_sec)))


def _pauses(speech_N2: np.ndarray, turns_N2: np.ndarray) -> np.ndarray:
    """Silences of more than 0.2 s inside turns, `[N, 2]`."""
    units = joined(speech_N2, IPU_SILENCE_SEC)
    silences = np.stack([units[:-1, 1], units[1:, 0]], axis=1)
    return silences[~np.isin(silences[:, 0], turns_N2[:, 1])]


def _begins_in(spoken_N2: np.ndarray, turns_N2: np.ndarray) -> np.ndarray:
    starts = spoken_N2[:, :1]
    return np.any((turns_N2[None, :, 0] < starts) & (starts < turns_N2[None, :, 1]), axis=1)


def _count(counts: list[int], happened: bool) -> None:
    counts[0] += int(happened)
    counts[1] += 1
