"""Whether a client sends audio in real time, and not too many messages.

Audio that is too fast empties a bucket that fills with the clock; audio that is too slow, or none, is found by counting
over windows. A client that sends another sample rate than it says is one or the other.
"""

import time
from collections.abc import Callable

from .endings import FAST, FLOOD, SILENT, SLOW, SessionEnded
from .limits import Limits

_BURST_SEC = 2.0  # of messages
_SLOW_SHARE = 0.75  # of real time


class Bucket:
    """Credit that grows with the clock up to a bound.

    Args:
        rate: credit a second.
        most: the bound, and the credit at the start.
    """

    def __init__(self, rate: float, most: float, clock: Callable[[], float]) -> None:
        self.rate, self.most, self.credit = rate, most, most
        self.clock, self.seen = clock, clock()

    def take(self, amount: float) -> bool:
        """Whether the credit was enough."""
        now = self.clock()
        self.credit = min(self.most, self.credit + (now - self.seen) * self.rate) - amount
        self.seen = now
        return self.credit >= 0


class Pace:
    """The pace of one client.

    Args:
        limits: the bounds.
        sample_rate_hz: of its audio.
        clock: seconds that only grow.
    """

    def __init__(self, limits: Limits, sample_rate_hz: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.sample_rate_hz, self.clock = limits, sample_rate_hz, clock
        self.messages = Bucket(limits.messages_per_sec, limits.messages_per_sec * _BURST_SEC, clock)
        self.begin()

    def begin(self) -> None:
        """Audio is measured from now on."""
        self.audio_sec = Bucket(1.0, self.limits.ahead_sec, self.clock)
        self.window_start, self.window_audio_sec = self.clock(), 0.0

    def on_message(self) -> None:
        """Counts a message.

        Raises:
            SessionEnded: too many.
        """
        if not self.messages.take(1):
            raise SessionEnded(FLOOD, f"At most {self.limits.messages_per_sec}.")

    def on_audio(self, num_samples: int) -> None:
        """Counts audio.

        Raises:
            SessionEnded: faster than real time.
        """
        duration_sec = num_samples / self.sample_rate_hz
        self.window_audio_sec += duration_sec
        if not self.audio_sec.take(duration_sec):
            raise SessionEnded(FAST)

    def excuse(self, duration_sec: float) -> None:
        """Leaves out time in which the server itself did not read."""
        self.window_start += duration_sec

    def check(self) -> None:
        """Compares a window with the clock, once it is over.

        Raises:
            SessionEnded: no audio in it, or less than three quarters.
        """
        passed_sec = self.clock() - self.window_start
        if passed_sec < self.limits.window_sec:
            return
        if self.window_audio_sec == 0:
            raise SessionEnded(SILENT)
        if self.window_audio_sec < passed_sec * _SLOW_SHARE:
            raise SessionEnded(SLOW)
        self.window_start, self.window_audio_sec = self.clock(), 0.0
