"""Where somebody speaks in one channel, as intervals `[N, 2]` in seconds: by an energy rule, or by silero-vad.

The energy rule takes windows of 20 ms for speech that are louder than `FLOOR_DB` and within `RANGE_DB` of the channel's
loud windows. It suits the sound of a codec, whose silence is silent, and needs nothing else. silero-vad (Silero Team
2024, MIT; its weights lie in its wheel) tells speech from noise, so it suits microphones. Both are compared in
docs/turn_taking.md.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import soxr
import torch

from ..codec.audio import SAMPLE_RATE_HZ
from ..extras import require_extras
from .speech_times import intervals_of, joined

METHODS = ("energy", "silero")
WINDOW_SEC = 0.02
FLOOR_DB = -60.0
RANGE_DB = 35.0
SHORTEST_SEC = 0.1
"""Of a silence inside speech, and of speech."""
_LOUD_PERCENTILE = 95
_SILERO_HZ = 16_000


def find_speech(samples_S: np.ndarray, method: str = "energy") -> np.ndarray:
    """Intervals `[N, 2]` of speech in seconds, in order and apart.

    Args:
        samples_S: one channel at 24 kHz, in [-1, 1].
        method: `"energy"` or `"silero"`.

    Raises:
        ValueError: another method, or silero-vad is not installed.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r}, but voice activity is found by one of {', '.join(METHODS)}.")
    return _silero_speech(samples_S) if method == "silero" else _energy_speech(samples_S)


def _energy_speech(samples_S: np.ndarray) -> np.ndarray:
    width = round(WINDOW_SEC * SAMPLE_RATE_HZ)
    padded = np.pad(np.asarray(samples_S, np.float32), (0, -len(samples_S) % width)).reshape(-1, width)
    power_db = 10 * np.log10(np.maximum(np.square(padded).mean(1, dtype=np.float64), 1e-12))
    audible = power_db[power_db > FLOOR_DB]
    if len(audible) == 0:
        return np.zeros((0, 2))
    threshold_db = max(FLOOR_DB, float(np.percentile(audible, _LOUD_PERCENTILE)) - RANGE_DB)
    speech = joined(intervals_of(power_db > threshold_db, WINDOW_SEC), SHORTEST_SEC)
    speech = np.minimum(speech, len(samples_S) / SAMPLE_RATE_HZ)
    return speech[_lengths(speech) >= SHORTEST_SEC]


def _silero_speech(samples_S: np.ndarray) -> np.ndarray:
    model, timestamps = _silero()
    samples = soxr.resample(np.asarray(samples_S, np.float32), SAMPLE_RATE_HZ, _SILERO_HZ)
    milliseconds = round(1000 * SHORTEST_SEC)
    found = timestamps(
        samples, model, min_speech_duration_ms=milliseconds, min_silence_duration_ms=milliseconds, speech_pad_ms=0
    )
    return np.array([(part["start"], part["end"]) for part in found], np.float64).reshape(-1, 2) / _SILERO_HZ


@lru_cache(maxsize=1)
def _silero() -> tuple[Any, Any]:
    """The model that reads many windows in one call, and the function that runs it."""
    require_extras(["silero-vad", "onnxruntime"])
    threads = torch.get_num_threads()
    try:
        from silero_vad import get_speech_timestamps_sequence, load_silero_vad

        return load_silero_vad(sequence=True), get_speech_timestamps_sequence
    finally:
        torch.set_num_threads(threads)  # importing silero_vad sets them to 1 for the whole process


def _lengths(intervals_N2: np.ndarray) -> np.ndarray:
    return intervals_N2[:, 1] - intervals_N2[:, 0] + 1e-9
