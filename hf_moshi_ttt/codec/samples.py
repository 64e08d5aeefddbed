"""Samples in memory as the codec takes them: float32 in [-1, 1], whatever type they come in."""

from typing import Any

import numpy as np
import torch

MAX_PEAK = 8.0
"""Of float samples: recordings may clip or be mixed above 1, but integers stored as floats are far beyond."""
_FULL_SCALE = {"int16": 32_768.0, "int32": 2_147_483_648.0}


def float_samples(samples: Any) -> np.ndarray:
    """float32 samples in [-1, 1] of an array or tensor of any shape.

    Integers are scaled by their type: int16 and int32 (also 24 bits in the upper bytes, as scipy reads them). Floats
    stay as they are. Eight bits are refused: their noise changes the codes.

    Raises:
        ValueError: another type, samples that are NaN or infinite, or floats far outside [-1, 1].
    """
    values = samples.detach().cpu() if isinstance(samples, torch.Tensor) else samples
    values = values.float().numpy() if getattr(values, "dtype", None) == torch.bfloat16 else np.asarray(values)
    if values.dtype.name in _FULL_SCALE:
        return (values / _FULL_SCALE[values.dtype.name]).astype(np.float32)
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(
            f"samples are {values.dtype}, but must be floats in [-1, 1], or int16 or int32, which are scaled; "
            "convert them first."
        )
    require_float_scale(values)
    return values.astype(np.float32)


def samples_and_rate(audio: Any, rate_hz: int) -> tuple[Any, int]:
    """Samples with their rate: those of a value of a dataset's audio column, or `audio` itself with `rate_hz`.

    Args:
        audio: a dict of "array" and "sampling_rate", what `datasets.Audio` or `SeekingAudio` decodes, or samples.

    Raises:
        ValueError: a dict without these keys.
    """
    is_decoder = hasattr(audio, "get_all_samples") or (isinstance(audio, str) and hasattr(audio, "read"))
    if isinstance(audio, dict) and not {"array", "sampling_rate"} <= audio.keys():
        raise ValueError(f'audio is a dict of {sorted(audio)}, but must hold "array" and "sampling_rate": decode it.')
    if isinstance(audio, dict) or is_decoder:
        return audio["array"], audio["sampling_rate"]
    return audio, rate_hz


def require_float_scale(values: np.ndarray) -> None:
    """Raises ValueError for samples that are NaN, infinite, or far outside [-1, 1]."""
    peak = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(peak):
        raise ValueError("holds samples that are NaN or infinite.")
    if peak > MAX_PEAK:
        raise ValueError(
            f"the peak is {peak:g}, but samples lie in [-1, 1]: they look like integers stored as floats; divide them "
            "by their full scale."
        )


def with_white_noise(samples_S: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """float32 samples `[S]` with white noise whose power is `snr_db` below the mean power of all of them."""
    rms = float(np.sqrt(np.mean(np.square(samples_S, dtype=np.float64))))
    noise_S = np.random.default_rng(seed).standard_normal(len(samples_S), dtype=np.float32)
    return samples_S + noise_S * np.float32(rms * 10 ** (-snr_db / 20))
