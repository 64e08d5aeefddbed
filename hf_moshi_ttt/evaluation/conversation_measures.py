"""Does speech collapse during a conversation? Entropy, repetition and fraction of time spoken, window by window.

| measure          | in a window of frames                                                                 |
| ---------------- | ------------------------------------------------------------------------------------- |
| `entropy_bits`   | entropy of the codes of codebook 0; at most log2 of the window                        |
| `repetition`     | 1 - distinct / all 4-grams of codebook 0 (seq-rep-4 of Welleck et al. 2020)           |
| `speaking_share` | fraction of frames louder than `SPEAKING_DB`                                          |
| `text_share`     | fraction of frames with a word piece in the text row                                  |

The same measures of the real conversations are the reference: generated speech should stay near them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..codec.audio import FRAME_SAMPLES, sec_from_frames
from ..codec.stream_rows import text_codes_without_words
from ..streaming.generation_moshi_ttt import Sampling
from .loss_curve import bin_centres, estimate_mean

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

NGRAM = 4
SPEAKING_DB = -45.0
MEASURES = ("entropy_bits", "repetition", "speaking_share", "text_share")


def continue_conversation(
    model: "MoshiTTTForConditionalGeneration",
    codes_KT: np.ndarray,
    prompt_frames: int,
    new_frames: int,
    silence_codes: Sequence[int],
    sampling: Sampling | None = None,
) -> np.ndarray:
    """What the model adds to the first frames of a conversation, `[K, new_frames]`.

    The user's side continues as recorded, with silence after its end.

    Args:
        silence_codes: `[Q]`, one frame of digital silence.

    Raises:
        ValueError: codes of one speaker alone.
    """
    if len(codes_KT) != model.config.num_streams:
        raise ValueError(
            f"A recording has {len(codes_KT)} rows of codes, but a conversation has {model.config.num_streams} (text, "
            "Moshi's voice, the user's): encode a two-channel corpus (hf-moshi-ttt prepare)."
        )
    first_user_row, length = 1 + model.config.num_codebooks, new_frames + model.config.max_delay_frames
    user = np.repeat(np.array(silence_codes)[:, None], length, axis=1)
    heard = codes_KT[first_user_row:, prompt_frames : prompt_frames + length]
    user[:, : heard.shape[1]] = heard
    prompt, user_codes = (
        torch.from_numpy(x.astype(np.int64))[None].to(model.device) for x in (codes_KT[:, :prompt_frames], user)
    )
    text = text_codes_without_words(model.config, 1, length, model.device)
    result: Any = model.generate(
        prompt, max_new_frames=new_frames, user_codes=user_codes, sampling=sampling, text_codes=text
    )
    return result.codes[0].cpu().numpy()


def entropy_bits(codes_T: np.ndarray) -> float:
    """Entropy of the empirical distribution of codes."""
    shares = np.unique(codes_T, return_counts=True)[1] / len(codes_T)
    return float(-(shares * np.log2(shares)).sum())


def repetition(codes_T: np.ndarray) -> float:
    """The fraction of 4-grams that occurred before in the window."""
    grams = np.lib.stride_tricks.sliding_window_view(codes_T, NGRAM)
    return 1 - len(np.unique(grams, axis=0)) / len(grams)


def speaking_frames(samples_S: np.ndarray) -> np.ndarray:
    """`[T]` bool, True where a frame of samples in [-1, 1] is louder than `SPEAKING_DB`."""
    frames = len(samples_S) // FRAME_SAMPLES
    power = np.square(samples_S[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES)).mean(1)
    return 10 * np.log10(np.maximum(power, 1e-12)) > SPEAKING_DB


def measures_by_window(
    own_QT: np.ndarray, text_T: np.ndarray, samples_S: np.ndarray, silent_text_ids: Sequence[int], window_frames: int
) -> dict[str, list[float]]:
    """Each measure in each whole window of one voice.

    Args:
        own_QT: its codes.
        text_T: its text row; negative where unknown.
        samples_S: its sound.
        silent_text_ids: PAD and EPAD.

    Raises:
        ValueError: a window below the 4 frames of a 4-gram, or longer than the conversation.
    """
    count = own_QT.shape[1] // window_frames if window_frames >= NGRAM else 0
    if count == 0:
        raise ValueError(
            f"window_frames={window_frames}, but it must be {NGRAM} to {own_QT.shape[1]} frames, the conversation's."
        )
    speaking = speaking_frames(samples_S)
    said = (text_T >= 0) & ~np.isin(text_T, silent_text_ids)
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for first in range(0, count * window_frames, window_frames):
        span = slice(first, first + window_frames)
        values["entropy_bits"].append(entropy_bits(own_QT[0, span]))
        values["repetition"].append(repetition(own_QT[0, span]))
        values["speaking_share"].append(float(speaking[span].mean()))
        values["text_share"].append(float(said[span].mean()))
    return values


def summarize_measures(values: Sequence[dict[str, list[float]]], window_frames: int) -> dict[str, Any]:
    """By measure, the mean of each window over conversations with its interval: `{measure: curve}`."""
    curves: dict[str, Any] = {}
    for name in MEASURES:
        longest = max(len(one[name]) for one in values)
        padded = np.array([one[name] + [np.nan] * (longest - len(one[name])) for one in values])
        curves[name] = []
        for centre, values_R in zip(bin_centres(longest, window_frames), padded.T, strict=True):
            estimate = estimate_mean(values_R)
            assert estimate is not None, "the longest conversation is there"
            point = {"position_frames": float(centre), "position_sec": sec_from_frames(float(centre))}
            curves[name].append({**point, **asdict(estimate)})
    return curves
