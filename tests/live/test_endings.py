"""Every reason fits into a close frame and has a name of its own."""

import inspect

from hf_moshi_ttt.live import endings
from hf_moshi_ttt.live.endings import ALL, FAST, Ending, SessionEnded


def test_every_reason_is_in_the_list_once_and_fits() -> None:
    defined = [value for _, value in inspect.getmembers(endings) if isinstance(value, Ending)]
    assert sorted(ending.code for ending in defined) == sorted(ending.code for ending in ALL)
    assert len({ending.code for ending in ALL}) == len(ALL)
    assert all(len(ending.text.encode()) <= 123 and 1000 <= ending.close_code < 1015 for ending in ALL)


def test_the_exception_says_what_and_in_detail() -> None:
    assert str(SessionEnded(FAST)) == FAST.text
    assert str(SessionEnded(FAST, "It was 48 kHz.")) == f"{FAST.text} It was 48 kHz."
