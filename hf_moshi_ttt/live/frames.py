"""What passes between a connection and the engine: whole frames in, answers out."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

_KEPT = 2


class Heard(NamedTuple):
    """A frame of a client's audio: float32 `[S]`, and when it was complete."""

    samples_S: np.ndarray
    arrived_sec: float


@dataclass(frozen=True)
class Answer:
    """What the model gave for one frame of a client.

    Args:
        number: of the frame in its session, from 1.
        samples_S: float32 sound, or None for the first frames, in which the delays give none yet.
        text: the piece of text of the frame; empty where nothing is said.
        latency_sec: from the frame's arrival to its answer.
        late_frames, dropped_frames: of the session so far.
    """

    number: int
    samples_S: np.ndarray | None
    text: str
    latency_sec: float
    late_frames: int
    dropped_frames: int


@dataclass(frozen=True)
class MemoryReport:
    """The memory of a session: the statistics of each TTT layer, as the session gives them, and how old it is."""

    layers: list[dict[str, Any]]


class Inbox:
    """Samples of any length in, whole frames out, first come first served; safe between two threads.

    Args:
        frame_samples: S.
        most: frames that may wait; beyond it all but the newest two are dropped, so that what is heard is the present
            again, after one gap.
    """

    def __init__(self, frame_samples: int, most: int) -> None:
        self.frame_samples, self.most = frame_samples, most
        self.dropped_frames = 0
        self._rest = np.zeros(0, dtype=np.float32)
        self._frames: deque[Heard] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, samples: np.ndarray, now_sec: float) -> None:
        """Appends samples `[any]`; what makes no whole frame waits for more."""
        samples = np.concatenate([self._rest, samples])
        whole = len(samples) // self.frame_samples * self.frame_samples
        self._rest = samples[whole:].copy()
        with self._lock:
            self._frames.extend(Heard(frame, now_sec) for frame in samples[:whole].reshape(-1, self.frame_samples))
            if len(self._frames) > self.most:
                while len(self._frames) > _KEPT:
                    self._frames.popleft()
                    self.dropped_frames += 1

    def pop(self) -> Heard | None:
        """The oldest frame."""
        with self._lock:
            return self._frames.popleft() if self._frames else None
