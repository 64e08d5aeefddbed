"""The page's protocol takes 16-bit samples and commands with exactly their fields."""

import json

import numpy as np
import pytest

from hf_moshi_ttt.live.endings import MALFORMED, SILENT, SessionEnded
from hf_moshi_ttt.live.frames import Answer, MemoryReport
from hf_moshi_ttt.live.page_wire import PageProtocol

PAGE = PageProtocol(24_000)


def test_samples_go_both_ways() -> None:
    samples = np.array([-1, -0.5, 0, 0.25, 1], dtype=np.float32)
    sound, event = PAGE.answer(Answer(7, samples, " hi", 0.0312, 1, 2))
    assert isinstance(sound, bytes) and sound[:2] == b"\x01\x80"
    assert np.allclose(PAGE.audio(sound), samples, atol=1 / 32767)
    assert json.loads(event) == {
        "type": "frame", "number": 7, "text": " hi", "latency_ms": 31.2, "late_frames": 1, "dropped_frames": 2
    }  # fmt: skip
    assert PAGE.answer(Answer(1, np.full(4, 3.0, np.float32), "", 0, 0, 0))[0] == b"\xff\x7f" * 4  # clipped
    assert len(PAGE.answer(Answer(1, None, "", 0, 0, 0))) == 1


def test_events() -> None:
    assert json.loads(PAGE.waiting(2)[0]) == {"type": "queue", "place": 2}
    assert json.loads(PAGE.ready()[0]) == {"type": "ready"}
    assert json.loads(PAGE.ended(SILENT, "Why.")[0]) == {"type": "end", "code": "silent", "text": "Why."}
    report = MemoryReport([{"norm": float("nan"), "write_strength": None, "age_sec": 0.5}])
    assert json.loads(PAGE.memory(report)[0])["layers"] == [{"norm": None, "write_strength": None, "age_sec": 0.5}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Text must be JSON."),
        ("[" * 100_000, "Text must be JSON."),
        ("[1]", "type must be one of hello, memory_on, save, "),
        ('{"type": ["save"]}', "type must be one of hello, "),
        ('{"type": "exec"}', "type must be one of hello, "),
        ('{"type": "load"}', "load has the fields type, id."),
        ('{"type": "load", "id": 7}', "load has the fields type, id."),
        ('{"type": "save", "path": "/etc/passwd"}', "save has the fields type."),
        ('{"type": "memory_on", "on": 1}', "memory_on has the fields type, on."),
        ('{"type": "hello", "sample_rate_hz": 48000}', "sample_rate_hz must be 24000."),
    ],
)
def test_other_commands_are_refused(text: str, message: str) -> None:
    with pytest.raises(SessionEnded) as caught:
        PAGE.command(text)
    assert caught.value.ending is MALFORMED and message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_commands_and_half_samples() -> None:
    assert PAGE.command('{"type": "load", "id": "ab"}') == {"type": "load", "id": "ab"}
    assert PAGE.command('{"type": "hello", "sample_rate_hz": 24000}')["type"] == "hello"
    for message in (b"", b"\0\0\0"):
        with pytest.raises(SessionEnded, match=r"Audio is 16-bit samples\.$"):
            PAGE.audio(message)
