"""The server's numbers for Prometheus."""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .endings import ALL, Ending

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_SEC = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.4, 0.8, 1.6)


class LiveMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        prefix: dict[str, Any] = {"namespace": "moshi_ttt", "registry": self.registry}
        self.step_sec = Histogram("step_seconds", "Time of one step of all rows.", buckets=_BUCKETS_SEC, **prefix)
        self.latency_sec = Histogram(
            "frame_latency_seconds", "From a frame's arrival to its answer.", buckets=_BUCKETS_SEC, **prefix
        )
        self.late_frames = Counter("late_frames", "Frames answered after two frames of time.", **prefix)
        self.dropped_frames = Counter("dropped_frames", "Frames that waited too long and were dropped.", **prefix)
        self.ended = Counter("sessions_ended", "Sessions that ended, by reason.", ["reason"], **prefix)
        for ending in ALL:
            self.ended.labels(ending.code)  # every reason is there from the start, at 0

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A number that is read when the metrics are."""
        Gauge(name, text, namespace="moshi_ttt", registry=self.registry).set_function(value)

    def answered(self, latency_sec: float, is_late: bool) -> None:
        """Counts a frame."""
        self.latency_sec.observe(latency_sec)
        self.late_frames.inc(is_late)

    def session_ended(self, ending: Ending, dropped_frames: int) -> None:
        """Counts a session."""
        self.ended.labels(ending.code).inc()
        self.dropped_frames.inc(dropped_frames)

    def text(self) -> bytes:
        """All numbers in Prometheus' format."""
        return generate_latest(self.registry)
