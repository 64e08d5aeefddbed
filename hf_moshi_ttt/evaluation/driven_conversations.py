"""A model that hears a user's recorded side from the start: several streams side by side, and what it says as sound.

The model's frame t is predicted from what the user said before frame t. It is complete one frame later (the delay of
the acoustic codebooks), so what a listener hears lies `max_delay_frames` after the frame's own time; `heard_sound` and
`heard_words` shift by that. Computing time comes on top in a live system.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..codec.audio import FRAME_SAMPLES, sec_from_frames
from ..codec.stream_rows import text_codes_without_words
from ..data.codes import decode_codes
from ..streaming.generation_moshi_ttt import Sampling
from .speech_times import Word
from .spoken_words import words_of_text_row

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor


@torch.no_grad()
def drive(
    model: "MoshiTTTForConditionalGeneration",
    users_QT: Sequence[np.ndarray],
    silence_codes: Sequence[int],
    sampling: Sampling,
) -> list[np.ndarray]:
    """What the model says to each user: codes `[1 + Q, T]` with the text in row 0, as long as the user's.

    Args:
        users_QT: the users' codes, of any lengths; shorter ones go on as silence.
        silence_codes: `[Q]`, one frame of digital silence.

    Raises:
        ValueError: no user, or codes with another number of codebooks than the model's.
    """
    codebooks = model.config.num_codebooks
    if not users_QT or any(user.ndim != 2 or len(user) != codebooks for user in users_QT):
        shapes = [list(user.shape) for user in users_QT]
        raise ValueError(f"The users' codes must be [{codebooks}, T] each, at least one; got {shapes}.")
    frames = max(user.shape[1] for user in users_QT)
    given_frames = frames + model.config.max_delay_frames
    heard = np.repeat(np.asarray(silence_codes, np.int64)[:, None], given_frames, axis=1)
    batch = np.repeat(heard[None], len(users_QT), axis=0)
    for row, user in zip(batch, users_QT, strict=True):
        row[:, : user.shape[1]] = user
    result: Any = model.generate(
        state=model.init_state(len(users_QT)),
        max_new_frames=frames,
        user_codes=torch.from_numpy(batch).to(model.device),
        sampling=sampling,
        text_codes=text_codes_without_words(model.config, len(users_QT), given_frames, model.device),
    )
    own = result.codes[:, : 1 + codebooks].cpu().numpy()
    return [codes[:, : user.shape[1]] for codes, user in zip(own, users_QT, strict=True)]


def seeded(sampling: Sampling, device: torch.device, seed: int, names: Sequence[object]) -> Sampling:
    """The same settings with a generator for each row, whose seed follows from `seed` and the row's name alone.

    So what is drawn for a row is the same in any batch.
    """
    digests = [hashlib.sha256(repr((seed, name)).encode()).digest() for name in names]
    seeds = [int.from_bytes(digest[:6], "big") for digest in digests]
    return replace(sampling, generator=[torch.Generator(device).manual_seed(one) for one in seeds])


def heard_sound(codec: Any, codes_KT: np.ndarray, delay_frames: int) -> np.ndarray:
    """What a listener hears of codes `[1 + Q, T]`: samples `[T * 1920]` that begin with the delay's silence."""
    samples = decode_codes(codec, codes_KT[1:])
    length = codes_KT.shape[1] * FRAME_SAMPLES
    return np.concatenate([np.zeros(delay_frames * FRAME_SAMPLES, np.float32), samples])[:length]


def heard_words(processor: "MoshiTTTProcessor", text_T: np.ndarray, delay_frames: int) -> list[Word] | None:
    """The words of a text row at the times when they are heard; None for a model without text."""
    config = processor.config
    if config.text_tokenizer is None:
        return None
    later = sec_from_frames(delay_frames)
    words = words_of_text_row(text_T, processor.tokenizer, [config.pad_token_id, config.end_pad_token_id])
    return [Word(word.text, word.start_sec + later, word.end_sec + later) for word in words]
