"""Bands are the window of each query, and slots of the ring its frames in order of time."""

import pytest
import torch

from hf_moshi_ttt.transformer.frame_positions import FramePositions, frame_positions

WINDOW = 5
NO_PHASES = (torch.empty(0), torch.empty(0))


def positions(length: int, first: int = 0, continues: bool = False) -> FramePositions:
    positions_BT = torch.arange(first, first + length)[None]
    return frame_positions(positions_BT, WINDOW, NO_PHASES, continues)


def test_a_sequence_within_the_window_needs_no_mask() -> None:
    assert positions(WINDOW) == FramePositions(NO_PHASES)


@pytest.mark.parametrize(
    ("length", "first", "continues"), [(300, 0, False), (300, 3, True), (2, 0, True), (4, 9, True)]
)
def test_a_query_sees_the_window_that_ends_at_its_own_frame(length: int, first: int, continues: bool) -> None:
    found = positions(length, first, continues)
    first_key = first - (WINDOW - 1) if continues else first
    seen = torch.zeros(length, first + length - first_key, dtype=torch.bool)
    for queries, keys, mask in found.bands:
        seen[queries, keys] = mask.view(mask.shape[-2:])
    for query in range(length):
        for key in range(seen.shape[1]):
            distance = first + query - (first_key + key)
            assert seen[query, key] == (0 <= distance < WINDOW and first_key + key >= 0)


def test_slots_of_a_chunk_are_those_of_the_frames_before_it_and_of_its_last() -> None:
    found = positions(7, first=8, continues=True)
    assert found.read_slots.flatten().tolist() == [4, 0, 1, 2] and found.write_slots.flatten().tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_single_frame_sees_the_slots_in_use() -> None:
    for first, in_use in ((0, 1), (3, 4), (4, 5), (12, 5)):
        found = positions(1, first, continues=True)
        (band,) = found.bands
        assert band.mask.flatten().tolist() == [0.0] * in_use + [-torch.inf] * (WINDOW - in_use)
        assert found.read_slots is None and found.write_slots.tolist() == [[[[first % WINDOW]]]]
