"""Turn-taking of models in a corpus of two-channel conversations, beside the human on the same conversations.

Each model hears the recorded user from the start and speaks alone; its numbers stand beside those of the human whose
place it takes, paired by conversation, once with each seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..data.codes import decode_codes
from ..streaming.generation_moshi_ttt import Sampling
from .driven_conversations import drive, heard_sound, heard_words, seeded
from .turn_taking import Heard, hear, paired_differences, turn_taking_numbers

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor


@dataclass(frozen=True)
class Corpus:
    """Conversations as codes `[1 + 2Q, T]`: text, Moshi's and the user's rows.

    Args:
        silence_codes: `[Q]`, one frame of digital silence.

    Raises:
        ValueError: no conversation, or codes of one channel.
    """

    codes_KT: Sequence[np.ndarray]
    silence_codes: Sequence[int]

    def __post_init__(self) -> None:
        expected = 1 + 2 * len(self.silence_codes)
        if not self.codes_KT or any(len(codes) != expected for codes in self.codes_KT):
            rows = sorted({len(codes) for codes in self.codes_KT})
            raise ValueError(
                f"The recordings have {rows} rows of codes, but conversations have {expected} (text, Moshi's voice, "
                "the user's) and at least one is needed: encode a two-channel corpus (hf-moshi-ttt prepare)."
            )

    def users(self) -> list[np.ndarray]:
        """The users' codes `[Q, T]`."""
        return [np.asarray(codes)[1 + len(self.silence_codes) :] for codes in self.codes_KT]

    def humans(self) -> list[np.ndarray]:
        """The codes `[1 + Q, T]` of the humans in Moshi's place, with their text."""
        return [np.asarray(codes)[: 1 + len(self.silence_codes)] for codes in self.codes_KT]


@dataclass
class Setup:
    """How models are run and heard.

    Args:
        seeds: each conversation is driven once with each.
        batch_size: conversations side by side.
        vad: as in `voice_activity.py`.
    """

    seeds: Sequence[int] = (0,)
    batch_size: int = 8
    vad: str = "energy"


def hear_humans(processor: "MoshiTTTProcessor", corpus: Corpus, setup: Setup) -> list[Heard]:
    """The recorded conversations, once for each seed, so that they pair with those of a model."""
    heard = [
        _hear(processor, user, human, 0, setup.vad) for user, human in zip(corpus.users(), corpus.humans(), strict=True)
    ]
    return heard * len(setup.seeds)


def hear_model(
    model: "MoshiTTTForConditionalGeneration",
    processor: "MoshiTTTProcessor",
    corpus: Corpus,
    setup: Setup,
    sampling: Sampling,
    progress: bool = True,
) -> list[Heard]:
    """The conversations with the model in the human's place, in the order of seeds and then of conversations."""
    users = corpus.users()
    starts = [(seed, first) for seed in setup.seeds for first in range(0, len(users), setup.batch_size)]
    heard = []
    for seed, first in tqdm(starts, desc="converse", unit="batch", disable=not progress):
        batch = users[first : first + setup.batch_size]
        drawn = seeded(sampling, model.device, seed, range(first, first + len(batch)))
        answers = drive(model, batch, corpus.silence_codes, drawn)
        for user, answer in zip(batch, answers, strict=True):
            heard.append(_hear(processor, user, answer, model.config.max_delay_frames, setup.vad))
    return heard


def _hear(
    processor: "MoshiTTTProcessor", user_QT: np.ndarray, own_KT: np.ndarray, delay_frames: int, vad: str
) -> Heard:
    words = heard_words(processor, own_KT[0], delay_frames)
    sound = heard_sound(processor.codec, own_KT, delay_frames)
    return hear(decode_codes(processor.codec, user_QT), sound, vad, words)


def compare_models(heard: dict[str, list[Heard]], human: list[Heard]) -> dict[str, Any]:
    """The numbers of all models and of the human, and each model less the human, and the first less each other model.

    Args:
        heard: by the models' names.
    """
    (main, *others) = heard
    models: dict[str, Any] = {
        name: {"numbers": turn_taking_numbers(one), "less_human": paired_differences(one, human)}
        for name, one in heard.items()
    }
    models[main] |= {f"less_{name}": paired_differences(heard[main], heard[name]) for name in others}
    return {"human": {"numbers": turn_taking_numbers(human)}, "models": models}
