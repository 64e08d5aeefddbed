"""What lies between a speaker and the recording: a room, a channel and noise, the same for a whole recording."""

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import oaconvolve

from ..codec.audio import SAMPLE_RATE_HZ
from ..codec.samples import with_white_noise

CHANNEL_RATES_HZ = (8000, 12000, 16000)
REVERBERATION_SEC = (0.1, 0.5)
WET = (0.05, 0.35)
SNR_DB = (20.0, 45.0)
CLEAN_SHARE = 0.3
_DECAY_60_DB = 6.9  # natural logarithm of 1000


@dataclass(frozen=True)
class Room:
    """How a recording sounds.

    Args:
        channel_rate_hz: the band is cut off at half of it; None for the whole band.
        reverberation_sec: time in which an echo falls by 60 dB; 0 for none.
        wet: energy of the echo relative to the direct sound.
        snr_db: level of the speech above white noise; None for no noise.
    """

    channel_rate_hz: int | None = None
    reverberation_sec: float = 0.0
    wet: float = 0.0
    snr_db: float | None = None

    @classmethod
    def draw(cls, rng: Generator) -> "Room":
        """A room; each of its three parts is absent in `CLEAN_SHARE` of the draws."""
        has_channel, has_echo, has_noise = rng.uniform(size=3) >= CLEAN_SHARE
        rate_hz = int(rng.choice(CHANNEL_RATES_HZ))
        echo_sec, wet, snr_db = (round(float(rng.uniform(*span)), 3) for span in (REVERBERATION_SEC, WET, SNR_DB))
        return cls(
            rate_hz if has_channel else None,
            echo_sec if has_echo else 0.0,
            wet if has_echo else 0.0,
            snr_db if has_noise else None,
        )

    def record(self, samples_S: NDArray[np.float32], rng: Generator) -> NDArray[np.float32]:
        """Speech as it is recorded, `[S]` at 24,000 Hz; nothing of it comes earlier than in `samples_S`."""
        if self.wet:
            samples_S = _with_echo(samples_S, self.reverberation_sec, self.wet, rng)
        if self.channel_rate_hz is not None:
            narrow = soxr.resample(samples_S, SAMPLE_RATE_HZ, self.channel_rate_hz)
            samples_S = _of_length(soxr.resample(narrow, self.channel_rate_hz, SAMPLE_RATE_HZ), len(samples_S))
        return samples_S if self.snr_db is None else with_white_noise(samples_S, self.snr_db, int(rng.integers(2**31)))


def _with_echo(
    samples_S: NDArray[np.float32], reverberation_sec: float, wet: float, rng: Generator
) -> NDArray[np.float32]:
    times_sec = np.arange(int(reverberation_sec * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    echo = rng.standard_normal(len(times_sec)) * np.exp(-_DECAY_60_DB * times_sec / reverberation_sec)
    echo *= np.sqrt(wet / np.sum(np.square(echo)))
    echo[0] = 1.0
    return oaconvolve(samples_S, echo.astype(np.float32))[: len(samples_S)]


def _of_length(samples_S: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    return np.pad(samples_S, (0, max(0, length - len(samples_S))))[:length]
