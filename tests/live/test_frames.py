"""Samples of any length become frames in order; what waits too long is dropped and counted."""

import numpy as np

from hf_moshi_ttt.live.frames import Inbox


def test_any_pieces_give_the_same_frames() -> None:
    inbox, samples = Inbox(4, 10), np.arange(22, dtype=np.float32)
    for i, piece in enumerate(np.split(samples, [1, 1, 9, 10, 15])):
        inbox.add(piece, float(i))
    frames = [inbox.pop() for _ in range(len(inbox))]
    assert np.array_equal(np.concatenate([frame.samples_S for frame in frames if frame]), samples[:20])
    assert [frame.arrived_sec for frame in frames if frame] == [2, 2, 4, 5, 5]
    assert inbox.pop() is None and inbox.dropped_frames == 0


def test_what_waits_too_long_is_dropped_in_one_go_and_counted() -> None:
    inbox = Inbox(2, 4)
    inbox.add(np.arange(8, dtype=np.float32), 0.0)
    assert (len(inbox), inbox.dropped_frames) == (4, 0)
    inbox.add(np.arange(8, 10, dtype=np.float32), 0.1)
    assert (len(inbox), inbox.dropped_frames) == (2, 3)
    first = inbox.pop()
    assert first is not None and first.samples_S.tolist() == [6, 7]
