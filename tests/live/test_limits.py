"""Bounds are above 0, but for a queue, which may be none."""

import pytest

from hf_moshi_ttt.live.limits import Limits


def test_bounds_are_above_0() -> None:
    assert Limits(queue=0).queue == 0
    with pytest.raises(ValueError, match=r"^session_sec=0, but it must be above 0\.$"):
        Limits(session_sec=0)
    with pytest.raises(ValueError, match="queue=-1"):
        Limits(queue=-1)
    with pytest.raises(ValueError, match="window_sec=nan"):
        Limits(window_sec=float("nan"))
