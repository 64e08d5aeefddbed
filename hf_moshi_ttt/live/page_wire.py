"""The protocol of our own page on `/api/live`: frames of raw 16-bit samples and JSON.

Raw samples, because no browser makes Ogg Opus by itself: Kyutai's page ships a compiled encoder and decoder, and
WebCodecs' Opus is not in every browser and has no Ogg. They cost 48 kB a second each way.

Binary messages are samples: little-endian int16, mono, 24 kHz. Messages of text are JSON objects with a `type`. The
client's first is `{"type": "hello", "sample_rate_hz": 24000}`.
"""

import json
import math
from typing import Any

import numpy as np

from .endings import MALFORMED, Ending, SessionEnded
from .frames import Answer, MemoryReport

# The fields of each command beside its type.
COMMANDS: dict[str, dict[str, type]] = {
    "hello": {"sample_rate_hz": int},
    "memory_on": {"on": bool},
    "save": {},
    "list": {},
    "load": {"id": str},
    "delete": {"id": str},
    "forget": {},
}
_SCALE = 32767


class PageProtocol:
    """The page's protocol for one client.

    Args:
        sample_rate_hz: of the model.
    """

    skip_frames = 0
    has_hello = True
    wants_memory_reports = True

    def __init__(self, sample_rate_hz: int) -> None:
        self.sample_rate_hz = sample_rate_hz

    def audio(self, message: bytes) -> np.ndarray:
        """Samples `[any]` float32 of a message.

        Raises:
            SessionEnded: no whole samples.
        """
        if not message or len(message) % 2:
            raise SessionEnded(MALFORMED, "Audio is 16-bit samples.")
        return np.frombuffer(message, dtype="<i2").astype(np.float32) / _SCALE

    def command(self, text: str) -> dict[str, Any]:
        """A command with exactly its own fields.

        Raises:
            SessionEnded: no such command, other fields, or a rate that is not the model's.
        """
        try:
            command = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SessionEnded(MALFORMED, "Text must be JSON.") from error
        kind = command.get("type") if isinstance(command, dict) else None
        if not isinstance(kind, str) or kind not in COMMANDS:
            raise SessionEnded(MALFORMED, f"type must be one of {', '.join(COMMANDS)}.")
        expected = {"type": str, **COMMANDS[kind]}
        if {name: type(value) for name, value in command.items()} != expected:
            raise SessionEnded(MALFORMED, f"{kind} has the fields {', '.join(expected)}.")
        if kind == "hello" and command["sample_rate_hz"] != self.sample_rate_hz:
            raise SessionEnded(MALFORMED, f"sample_rate_hz must be {self.sample_rate_hz}.")
        return command

    def ready(self) -> list[bytes | str]:
        """The client has a row from now on."""
        return [self.event("ready")]

    def waiting(self, place: int) -> list[bytes | str]:
        """The place in the queue."""
        return [self.event("queue", place=place)]

    def answer(self, answer: Answer) -> list[bytes | str]:
        """Sound of a frame, and an event with its text and numbers."""
        messages: list[bytes | str] = []
        if answer.samples_S is not None:
            samples = np.clip(answer.samples_S, -1, 1) * _SCALE
            messages.append(samples.round().astype("<i2").tobytes())
        counts = {"late_frames": answer.late_frames, "dropped_frames": answer.dropped_frames}
        latency_ms = round(1000 * answer.latency_sec, 1)
        return [*messages, self.event("frame", number=answer.number, text=answer.text, latency_ms=latency_ms, **counts)]

    def memory(self, report: MemoryReport) -> list[bytes | str]:
        """The memory's numbers; null where one is not finite, which JSON has no number for."""
        layers = [{name: _json_number(value) for name, value in layer.items()} for layer in report.layers]
        return [self.event("memory", layers=layers)]

    def ended(self, ending: Ending, text: str) -> list[bytes | str]:
        """Why the session ends."""
        return [self.event("end", code=ending.code, text=text)]

    @staticmethod
    def event(kind: str, **content: Any) -> str:
        """A message of text."""
        return json.dumps({"type": kind, **content})


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
