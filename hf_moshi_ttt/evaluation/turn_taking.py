"""Turn-taking of a model in conversations, as numbers: two time-aligned channels in, rates and delays out.

    heard = [hear("talk.wav"), hear(user_samples, model_samples, words=words)]
    numbers = turn_taking_numbers(heard)

What counts as a pause, a turn, a takeover or a backchannel is said in `turn_outcomes.py`, the events in
`turn_events.py`, the intervals in `turn_statistics.py`. A number without any event is absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..codec.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, read_audio
from ..codec.samples import float_samples
from .speech_times import Word
from .turn_events import event_numbers, find_events
from .turn_outcomes import DELAYS, RATES, Outcomes, find_outcomes, words_within
from .turn_statistics import delay_keys, median_of, over_conversations, rate_keys, rate_of
from .voice_activity import find_speech

logger = logging.get_logger(__name__)

_MIN_WORDS_OF_SWAP = 5
_NOISE_SHARE = 0.95


@dataclass(frozen=True)
class Heard:
    """Voice activity of one conversation.

    Args:
        user_N2, model_N2: speech of both, in seconds.
        words: the model's, None where unknown.
    """

    user_N2: np.ndarray
    model_N2: np.ndarray
    duration_sec: float
    words: Sequence[Word] | None = None

    @cached_property
    def outcomes(self) -> Outcomes:
        """What the model does at each chance that the user gives."""
        return find_outcomes(self.user_N2, self.model_N2, self.duration_sec, self.words)


def hear(
    user: Any, model: Any = None, vad: str = "energy", words: Sequence[Word] | None = None, user_channel: int = 1
) -> Heard:
    """Finds who speaks when.

    Args:
        user, model: samples `[S]` at 24 kHz or an audio file of any rate for each, or one file of two channels as
            `user` alone.
        vad: `"energy"` or `"silero"`, see `voice_activity.py`.
        words: what the model says; they must lie in its speech.
        user_channel: of a file of two channels, 1 as in DailyTalk (0 is Moshi's).

    Raises:
        ValueError: a mono file without a second one, channels of different length, twice the same sound, or words that
            are spoken in the user's channel.
        BadAudioError: a file that cannot be read.
    """
    if model is None:
        user_S, model_S = _two_channels(user, user_channel)
    else:
        user_S, model_S = _one_channel(user, "user"), _one_channel(model, "model")
    _require_aligned(user_S, model_S)
    length = max(len(user_S), len(model_S))
    user_N2, model_N2 = find_speech(user_S, vad), find_speech(model_S, vad)
    if vad == "energy" and np.diff(user_N2).sum() > _NOISE_SHARE * length / SAMPLE_RATE_HZ:
        logger.warning(f"{_name(user)}: the user is never silent. If that is a microphone's noise, take vad='silero'.")
    if words is not None:
        _require_own_words(words, user_N2, model_N2)
    return Heard(user_N2, model_N2, length / SAMPLE_RATE_HZ, words)


def _two_channels(source: Any, user_channel: int) -> tuple[np.ndarray, np.ndarray]:
    if user_channel not in (0, 1):
        raise ValueError(f"user_channel={user_channel!r}, but a conversation has channels 0 and 1.")
    samples_CS = read_audio(source) if isinstance(source, (str, Path)) else float_samples(source)
    if samples_CS.ndim != 2 or len(samples_CS) != 2:
        found = "1 channel" if samples_CS.ndim < 2 or len(samples_CS) == 1 else f"{list(samples_CS.shape)}"
        raise ValueError(
            f"{_name(source)}: {found}, but a conversation needs two, [2, S]: give a file of two channels, or one file "
            "for the user and one for the model."
        )
    if samples_CS.size == 0:
        raise ValueError(f"{_name(source)}: holds no samples.")
    return samples_CS[user_channel], samples_CS[1 - user_channel]


def _one_channel(source: Any, whose: str) -> np.ndarray:
    samples = read_audio(source) if isinstance(source, (str, Path)) else float_samples(source)
    if samples.ndim == 2 and len(samples) == 1:
        samples = samples[0]
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"{_name(source)}: the {whose}'s side must be one channel [S], got {list(samples.shape)}.")
    return samples


def _name(source: Any) -> str:
    return str(source) if isinstance(source, (str, Path)) else "samples"


def _require_aligned(user_S: np.ndarray, model_S: np.ndarray) -> None:
    if abs(len(user_S) - len(model_S)) >= FRAME_SAMPLES:  # codecs fill the last frame
        raise ValueError(
            f"The user's channel lasts {len(user_S) / SAMPLE_RATE_HZ:.2f} s and the model's "
            f"{len(model_S) / SAMPLE_RATE_HZ:.2f} s, but time-aligned channels are equally long (within a frame of "
            "0.08 s): fill the shorter one with silence, if both start at the same time."
        )
    if user_S.any() and np.array_equal(user_S, model_S):
        raise ValueError("Both channels hold the same sound: a mono recording has no turns to take.")


def _require_own_words(words: Sequence[Word], user_N2: np.ndarray, model_N2: np.ndarray) -> None:
    within = [
        sum(words_within([word], *part) or 0 for part in speech for word in words) for speech in (user_N2, model_N2)
    ]
    if len(words) >= _MIN_WORDS_OF_SWAP and within[0] > len(words) / 2 > within[1]:
        raise ValueError(
            f"{within[0]} of the model's {len(words)} words lie in the user's speech and {within[1]} in the model's: "
            "the channels look swapped (user_channel)."
        )


def turn_taking_numbers(conversations: Sequence[Heard]) -> dict[str, Any]:
    """All numbers of some conversations.

    Returns:
        `conversations`, `duration_min`, how many have a `silent_user` or a `silent_model` and how many `without_words`;
        rates with `_interval` and `_count`; delays as `_median_sec` (with `_interval`), `_p90_sec` and `_count`;
        `backchannels_per_min`; `model_speaking_share` and `user_speaking_share`; the events of dGSLM. What has no
        event is absent.

    Raises:
        ValueError: no conversation.
    """
    if not conversations:
        raise ValueError("No conversation: there is nothing to measure.")
    outcomes = [one.outcomes for one in conversations]
    duration_sec = sum(one.duration_sec for one in conversations)
    numbers: dict[str, Any] = {
        "conversations": len(conversations),
        "duration_min": duration_sec / 60,
        "silent_user": sum(len(one.user_N2) == 0 for one in conversations),
        "silent_model": sum(len(one.model_N2) == 0 for one in conversations),
        "without_words": sum(one.words is None for one in conversations),
    }
    for name, field in RATES.items():
        count, of = np.sum([getattr(one, field) for one in outcomes], 0)
        numbers |= rate_keys(name, int(count), int(of))
    for name, field in DELAYS.items():
        numbers |= delay_keys(name, [getattr(one, field) for one in outcomes])
    numbers["backchannels_per_min"] = 60 * sum(len(one.backchannels) for one in outcomes) / duration_sec
    for whose in ("model", "user"):
        spoken = sum(float(np.diff(getattr(one, f"{whose}_N2")).sum()) for one in conversations)
        numbers[f"{whose}_speaking_share"] = spoken / duration_sec
    events = [find_events(one.user_N2, one.model_N2) for one in conversations]
    return numbers | event_numbers(events, duration_sec)


def paired_differences(model: Sequence[Heard], other: Sequence[Heard]) -> dict[str, Any]:
    """The model less another on the same conversations: rates and median delays, with intervals over conversations.

    Returns:
        `<name>_difference` and `<name>_difference_interval`; absent where one of both has no event.

    Raises:
        ValueError: different numbers of conversations, or of different length.
    """
    lengths = [[round(one.duration_sec, 1) for one in both] for both in (model, other)]
    if lengths[0] != lengths[1]:
        raise ValueError(f"Conversations of {lengths[0]} s cannot be paired with conversations of {lengths[1]} s.")
    both = [[one.outcomes for one in side] for side in (model, other)]
    everything = np.arange(len(model))
    found: dict[str, Any] = {}
    for name, field in (RATES | DELAYS).items():
        if name in RATES:
            values: Any = [np.array([getattr(one, field) for one in side], float) for side in both]
            statistic: Any = rate_of
        else:
            name, statistic = f"{name}_median_sec", median_of
            values = [[getattr(one, field) for one in side] for side in both]
        difference = statistic(values[0], everything) - statistic(values[1], everything)
        if np.isnan(difference):
            continue
        found[f"{name}_difference"] = float(difference)
        interval = over_conversations(
            len(model),
            lambda chosen, s=statistic, v=values: s(v[0], chosen) - s(v[1], chosen),  # type: ignore[misc]
        )
        found |= {} if interval is None else {f"{name}_difference_interval": interval}
    return found
