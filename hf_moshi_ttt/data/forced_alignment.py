"""Times of spoken words: forced alignment of a known text to its audio by pocketsphinx (English, model in the wheel).

What is different: the words come back spelt as in the text, punctuation included, as `kyutai/DailyTalkContiguous` has
them, although the aligner's dictionary knows only bare lower-case words. A hyphenated word is aligned in its parts and
comes back whole. Words that the dictionary lacks are left out; `unknown_words` lists them.
"""

import re
from functools import cache
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from ..codec.samples import require_float_scale

ALIGNER_RATE_HZ = 16_000
FRAMES_PER_SEC = 100
MARGIN_SEC = 0.2
NOISE_FLOORS = (3e-4, 3e-3, 1e-4, 1e-3)
"""Levels of the noise, tried in turn: at each about one utterance in 300 ends before its last word is found."""

AlignedWord = tuple[str, tuple[float, float]]


def align_words(samples: NDArray[np.float32], sample_rate_hz: float, text: str) -> list[AlignedWord]:
    """Find when each word of `text` is spoken.

    Args:
        samples: one channel in [-1, 1], shape [samples].
        sample_rate_hz: of `samples`, not necessarily a whole number; the aligner itself works at 16,000 Hz.
        text: exactly what is said. Characters other than letters, apostrophes and hyphens are ignored.

    Returns:
        `(word, (start_sec, end_sec))` in the order of speech, resolved to 0.01 s. Empty when no word is known.

    Raises:
        ValueError: the samples have more than one axis or another scale, or the text does not fit the audio.
    """
    if samples.ndim != 1:
        raise ValueError(f"samples has shape {samples.shape}, but one channel [samples] is needed; align each alone")
    require_float_scale(samples)
    spelt = [(token, parts) for token in text.split() if (parts := dictionary_spelling(token))]
    if not spelt:
        return []
    times_sec = _align_spellings(samples, sample_rate_hz, [part for _, parts in spelt for part in parts])
    aligned: list[AlignedWord] = []
    first_part = 0
    for token, parts in spelt:
        last_part = first_part + len(parts) - 1
        aligned.append((token, (times_sec[first_part][0], times_sec[last_part][1])))
        first_part = last_part + 1
    return aligned


def unknown_words(text: str) -> list[str]:
    """Return the words of `text` that `align_words` leaves out, as written. Bare punctuation is no word."""
    return [token for token in text.split() if re.search(r"\w", token) and not dictionary_spelling(token)]


def dictionary_spelling(token: str) -> list[str]:
    """Return the dictionary's words for one word of a text, more than one for a compound, empty if it is unknown."""
    plain = token.lower().replace("’", "'").strip("'\"“”‘.,;:!?()[]*")
    if _is_known(plain):
        return [plain]
    parts = [part for part in re.split(r"[^a-z']+", plain) if part.strip("'")]
    is_plain_compound = bool(parts) and not re.search(r"[^a-z'.,;:!?/—–-]", plain)
    return parts if is_plain_compound and all(_is_known(part) for part in parts) else []


def _is_known(word: str) -> bool:
    return bool(re.fullmatch(r"[a-z'.-]*[a-z][a-z'.-]*", word)) and _decoder().lookup_word(word) is not None


@cache
def _decoder() -> Any:
    """The aligner, one for each process. The wide beams are what lets hesitant or hurried audio still be aligned."""
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise ImportError("Alignment needs pocketsphinx: pip install 'hf_moshi_ttt[align]'.") from error
    return Decoder(lm=None, beam=1e-100, wbeam=1e-80, pbeam=1e-100, cmn="batch", loglevel="FATAL")


def _align_spellings(
    samples: NDArray[np.float32], sample_rate_hz: float, words: list[str]
) -> list[tuple[float, float]]:
    """Start and end seconds of each dictionary word, under the first noise floor with which all are found."""
    resampled = soxr.resample(samples, sample_rate_hz, ALIGNER_RATE_HZ).astype(np.float32)
    padded = np.pad(resampled, int(MARGIN_SEC * ALIGNER_RATE_HZ))
    noise = np.random.default_rng(0).standard_normal(len(padded), dtype=np.float32)
    duration_sec = len(samples) / sample_rate_hz
    found_counts = []
    for level in NOISE_FLOORS:
        frames = _spoken_frames(padded + np.float32(level) * noise, words)
        if len(frames) == len(words):
            return [(_second(start, duration_sec), _second(end, duration_sec)) for start, end in frames]
        found_counts.append(len(frames))
    raise ValueError(
        f"{len(words)} words were to be aligned in {duration_sec:.2f} s of audio, but {found_counts} "
        f"were found; give the text that is spoken there: {' '.join(words)!r}"
    )


def _spoken_frames(padded: NDArray[np.float32], words: list[str]) -> list[tuple[int, int]]:
    """First frame and frame after the last of every word found in samples [samples] at the aligner's rate."""
    decoder = _decoder()
    decoder.reinit_feat()  # or its noise estimate carries over, and times depend on what was aligned before
    decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw((np.clip(padded, -1.0, 1.0) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    segments = [segment for segment in decoder.seg() or [] if segment.word[0] not in "<["]
    return [(segment.start_frame, segment.end_frame + 1) for segment in segments]


def _second(frame: int, duration_sec: float) -> float:
    """The time of a frame of the padded audio in the audio itself."""
    return round(min(max(frame / FRAMES_PER_SEC - MARGIN_SEC, 0.0), duration_sec), 3)
