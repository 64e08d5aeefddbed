"""The thread that steps all rows together, 12.5 times a second.

Only this thread touches the session: what else is to be done with it, such as saving a memory, waits for the end of the
step under way. A tick takes one frame of each row that has one; while a row has more waiting, the next step follows at
once, so a client that came late catches up.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .endings import MODEL_ERROR, SessionEnded
from .frames import Answer, Heard, Inbox, MemoryReport
from .metrics import LiveMetrics

if TYPE_CHECKING:
    from .session import MoshiTTTSession, SessionFrame

FRAME_SEC = 0.08
# A frame waits for the tick after its arrival and is answered before the next one.
LATE_AFTER_SEC = 2 * FRAME_SEC
REPORT_FRAMES = 12  # between two reports of a memory
logger = logging.getLogger(__name__)


@dataclass
class Seat:
    """A client in a row.

    Args:
        inbox: its frames.
        deliver: is called from the engine's thread with every `Answer`, `MemoryReport`, or what ends the session.
        wants_reports: of its memory.
    """

    inbox: Inbox
    deliver: Callable[[Answer | MemoryReport | SessionEnded], None]
    wants_reports: bool = False
    frames: int = field(default=0, init=False)
    late_frames: int = field(default=0, init=False)


class Engine:
    """Steps a session's rows.

    Args:
        session: what is stepped.
        metrics: counts frames.
        seed: of the seeds that clients' draws get, one after the other; None for others in every run.
    """

    def __init__(self, session: "MoshiTTTSession", metrics: LiveMetrics, seed: int | None = None) -> None:
        self.session, self.metrics = session, metrics
        self._seeds = random.Random(seed)
        self.seats: dict[int, Seat] = {}
        self.ticked_sec = time.monotonic()
        self._calls: deque[tuple[Callable[[Any], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_sec: float) -> bool:
        """Ends the thread after its step; whether it ended in time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_sec)
        return not self._thread.is_alive()

    def is_alive(self, within_sec: float) -> bool:
        """Whether the thread runs and ticked in this time."""
        return self._thread.is_alive() and time.monotonic() - self.ticked_sec < within_sec

    def call(self, function: Callable[[Any], Any]) -> "Future[Any]":
        """Calls a function with the session between two steps; its result or exception comes in the future.

        A RuntimeError comes where the engine has ended.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._is_over:
                future.set_exception(RuntimeError("The engine has ended."))
            else:
                self._calls.append((function, future))
                self._changed.notify()
        return future

    def sit(self, row: int, seat: Seat) -> "Future[Any]":
        """Makes a row fresh and gives it to a client."""

        def begin(session: "MoshiTTTSession") -> None:
            session.reset(row, seed=self._seeds.getrandbits(63))
            session.set_memory_on(row, True)
            self.seats[row] = seat

        return self.call(begin)

    def stand_up(self, row: int) -> "Future[Any]":
        """Takes a row from its client; nothing is delivered afterwards."""
        return self.call(lambda session: self.seats.pop(row, None))

    def hear(self, seat: Seat, samples: np.ndarray) -> None:
        """Adds samples of a client."""
        seat.inbox.add(samples, time.monotonic())
        if len(seat.inbox) > 1:
            with self._changed:
                self._changed.notify()

    def _run(self) -> None:
        try:
            self._run_until_stopped()
        finally:
            with self._changed:
                self._is_over = True
            self._run_calls()

    def _run_until_stopped(self) -> None:
        due_sec = time.monotonic()
        while not self._stopping:
            self._run_calls()
            is_due = time.monotonic() >= due_sec
            if is_due or self._is_behind():
                self._tick()
            if is_due:
                due_sec = max(due_sec + FRAME_SEC, time.monotonic())
            self._rest(due_sec)

    def _is_behind(self) -> bool:
        return any(len(seat.inbox) > 1 for seat in list(self.seats.values()))

    def _rest(self, until_sec: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopping or bool(self._calls) or self._is_behind(),
                timeout=max(0.0, until_sec - time.monotonic()),
            )

    def _run_calls(self) -> None:
        while self._calls:
            function, future = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(self.session))
                except Exception as error:
                    future.set_exception(error)

    def _tick(self) -> None:
        self.ticked_sec = time.monotonic()
        heard = {row: frame for row, seat in self.seats.items() if (frame := seat.inbox.pop()) is not None}
        if heard:
            self._answer(heard)
            self.metrics.step_sec.observe(time.monotonic() - self.ticked_sec)

    def _answer(self, heard: dict[int, Heard]) -> None:
        """Steps these rows; if that fails, one after the other, so that only the row that fails ends."""
        try:
            result = self._step(heard)
        except Exception as error:
            if len(heard) == 1:
                self._fail(next(iter(heard)), error)
                return
            logger.exception("A step of %d rows failed; each is tried alone.", len(heard))
            for row, frame in heard.items():
                self._answer({row: frame})
            return
        for row, frame in heard.items():
            try:
                if not self._stopping:
                    self._deliver(row, frame, result)
            except Exception as error:
                self._fail(row, error)

    def _step(self, heard: dict[int, Heard]) -> "SessionFrame":
        samples_BN = np.zeros((self.session.num_rows, self.session.frame_samples), dtype=np.float32)
        active_B = [row in heard for row in range(self.session.num_rows)]
        for row, frame in heard.items():
            samples_BN[row] = frame.samples_S
        return self.session.step(samples_BN, active_B)

    def _deliver(self, row: int, frame: Heard, result: "SessionFrame") -> None:
        seat = self.seats[row]
        samples_S = np.asarray(result.samples_BN[row], dtype=np.float32)
        if not np.isfinite(samples_S).all():
            raise ValueError("The model's sound is not finite.")
        latency_sec = time.monotonic() - frame.arrived_sec
        seat.frames += 1
        seat.late_frames += latency_sec > LATE_AFTER_SEC
        self.metrics.answered(latency_sec, latency_sec > LATE_AFTER_SEC)
        ready, text = bool(result.ready_B[row]), result.text[row]
        counts = (seat.late_frames, seat.inbox.dropped_frames)
        seat.deliver(Answer(seat.frames, samples_S if ready else None, text, latency_sec, *counts))
        if seat.wants_reports and seat.frames % REPORT_FRAMES == 1:
            seat.deliver(MemoryReport(self.session.memory_stats(row)))

    def _fail(self, row: int, error: Exception) -> None:
        logger.error("Row %d failed.", row, exc_info=error)
        self.seats.pop(row).deliver(SessionEnded(MODEL_ERROR))
