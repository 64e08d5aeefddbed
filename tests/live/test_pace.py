"""A client in real time passes with jitter; others end with the reason."""

import pytest

from hf_moshi_ttt.live.endings import FAST, FLOOD, SILENT, SLOW, SessionEnded
from hf_moshi_ttt.live.limits import Limits
from hf_moshi_ttt.live.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ending_of(sent_hz: float, duration_sec: float = 60.0, every_sec: float = 0.08, first: int = 0) -> object:
    """What a client that sends at this rate ends with; `first` samples come at once."""
    clock = Clock()
    pace = Pace(Limits(), 24_000, clock)
    try:
        pace.on_audio(first)
        while clock.now < 100 + duration_sec:
            clock.now += every_sec
            pace.on_message()
            pace.on_audio(round(sent_hz * every_sec))
            pace.check()
    except SessionEnded as ended:
        return ended.ending
    return None


@pytest.mark.parametrize(
    ("sent_hz", "ending"),
    [(24_000, None), (24_010, None), (48_000, FAST), (44_100, FAST), (19_000, None), (16_000, SLOW), (0, SILENT)],
)
def test_the_rate_of_audio(sent_hz: float, ending: object) -> None:
    assert ending_of(sent_hz) is ending


def test_jitter_passes_and_a_burst_does_not() -> None:
    assert ending_of(24_000, first=95_000) is None
    assert ending_of(24_000, first=97_000) is FAST
    assert ending_of(24_000, every_sec=3.9) is None


def test_a_lull_is_forgotten_after_its_window() -> None:
    """A fifth of all time without audio adds up to minutes, and passes; a window without any does not."""
    clock = Clock()
    pace = Pace(Limits(), 24_000, clock)
    for second in range(600):
        clock.now += 1
        if second % 5:
            pace.on_audio(24_000)
        pace.check()
    clock.now += 20
    with pytest.raises(SessionEnded, match=r"^No audio came\. Send silence as audio, in real time\.$") as caught:
        pace.check()
    assert caught.value.ending is SILENT


def test_time_in_which_the_server_did_not_read_is_left_out() -> None:
    clock = Clock()
    pace = Pace(Limits(), 24_000, clock)
    for _ in range(40):
        clock.now += 0.25 + 0.2  # it wanted to look after a quarter of a second
        pace.excuse(0.2)
        pace.on_audio(6000)
        pace.check()
    clock.now += 10
    pace.excuse(9.9)
    pace.check()


def test_too_many_messages() -> None:
    clock = Clock()
    pace = Pace(Limits(messages_per_sec=50), 24_000, clock)
    for _ in range(100):
        pace.on_message()
    with pytest.raises(SessionEnded, match=r"^Too many messages a second\. At most 50\.$") as caught:
        pace.on_message()
    assert caught.value.ending is FLOOD
    clock.now += 1
    for _ in range(49):
        pace.on_message()
