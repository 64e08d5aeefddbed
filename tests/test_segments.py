"""Every window is seen exactly once an epoch, and along lanes each batch row walks recordings in sequence."""

import random

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from datasets import List as ListFeature

from hf_moshi_ttt.data.segments import LaneSampler, SegmentDataset

FEATURES = Features({"codes": ListFeature(ListFeature(Value("int16"))), "frames": Value("int32")})


def corpus(lengths: list[int]) -> Dataset:
    """Recordings `[2, T]` whose codes are their own number (row 0) and the frame (row 1)."""
    rows = [{"codes": np.stack([np.full(n, i), np.arange(n)]), "frames": n} for i, n in enumerate(lengths)]
    return Dataset.from_list(rows, features=FEATURES).with_format("numpy")


def random_segments(seed: int) -> tuple[SegmentDataset, list[int]]:
    rng = random.Random(seed)
    lengths = [rng.randrange(1, 60) for _ in range(rng.randrange(4, 12))] + [40]
    return SegmentDataset(corpus(lengths), segment_frames=rng.randrange(3, 12)), lengths


def test_segments_of_known_recordings() -> None:
    segments = SegmentDataset(corpus([7, 1, 6, 4]), segment_frames=3)
    assert len(segments) == 5
    assert [(segments[i]["recording"], segments[i]["start_frame"]) for i in range(5)] == [
        (0, 0), (0, 3), (2, 0), (2, 3), (3, 0),
    ]  # fmt: skip
    assert segments.dropped_frames == 3  # the last of recordings 0 and 3, and recording 1
    assert segments[1]["codes"].tolist() == [[0, 0, 0], [3, 4, 5]]


def test_a_short_last_segment_is_kept_from_min_frames_on() -> None:
    assert SegmentDataset(corpus([5]), segment_frames=3)[1]["codes"].tolist() == [[0, 0], [3, 4]]
    longer = SegmentDataset(corpus([5]), segment_frames=3, min_frames=3)
    assert (len(longer), longer.dropped_frames) == (1, 2)
    one = SegmentDataset(corpus([4]), segment_frames=3, min_frames=1)
    assert (len(one), one.dropped_frames) == (2, 0)


@pytest.mark.parametrize("seed", range(8))
def test_every_frame_is_in_exactly_one_segment(seed: int) -> None:
    segments, lengths = random_segments(seed)
    seen = [(int(i), int(t)) for item in map(segments.__getitem__, range(len(segments))) for i, t in item["codes"].T]
    assert len(seen) == len(set(seen)) == sum(lengths) - segments.dropped_frames
    dropped = {(i, t) for i, length in enumerate(lengths) for t in range(length)} - set(seen)
    assert all(t == lengths[i] - 1 for i, t in dropped)  # single last frames alone


def test_reading_in_any_order_gives_the_same_segments() -> None:
    segments, _ = random_segments(0)
    in_order = [segments[index]["codes"] for index in range(len(segments))]
    for index in random.Random(0).sample(range(len(segments)), len(segments)):
        assert np.array_equal(segments[index]["codes"], in_order[index])


def test_recordings_without_a_segment_are_refused() -> None:
    with pytest.raises(ValueError, match="No recording has 5 frames; the longest of 3 has 4"):
        SegmentDataset(corpus([4, 2, 1]), segment_frames=10, min_frames=5)


def walks(segments: SegmentDataset, lanes: int, seed: int, epoch: int = 0) -> list[list[int]]:
    """The segment numbers that each batch row sees."""
    sampler = LaneSampler(segments, lanes, seed)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(indices) == len(sampler)
    return [indices[lane::lanes] for lane in range(lanes)]


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_each_lane_walks_recordings_in_sequence(seed: int, lanes: int) -> None:
    segments, lengths = random_segments(seed)
    for walk in walks(segments, lanes, seed):
        items = [segments[index] for index in walk]
        for before, after in zip(items[:-1], items[1:], strict=True):
            end = before["start_frame"] + before["codes"].shape[1]
            if after["recording"] == before["recording"]:
                assert after["start_frame"] == end
            else:
                assert after["start_frame"] == 0
                assert end >= lengths[before["recording"]] - 1  # nothing of it was left out but a single last frame


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_no_segment_comes_twice_and_less_than_a_batch_is_left_out(seed: int, lanes: int) -> None:
    segments, _ = random_segments(seed)
    rows = walks(segments, lanes, seed)
    assert {len(row) for row in rows} == {len(segments) // lanes}
    seen = [index for row in rows for index in row]
    assert len(seen) == len(set(seen)) > len(segments) - lanes
    assert set(seen) <= set(range(len(segments)))


def test_a_lane_may_start_within_a_recording() -> None:
    segments = SegmentDataset(corpus([12]), segment_frames=3)
    assert walks(segments, 2, seed=0) == [[0, 1], [2, 3]]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    segments, _ = random_segments(3)
    again, _ = random_segments(3)
    assert walks(segments, 2, seed=5, epoch=1) == walks(again, 2, seed=5, epoch=1)
    orders = [walks(segments, 2, seed, epoch) for seed in (5, 6) for epoch in (0, 1)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))
    sampler = LaneSampler(segments, 2, seed=5)
    assert list(sampler) == list(sampler)


def test_more_lanes_than_segments_are_refused() -> None:
    segments = SegmentDataset(corpus([6]), segment_frames=3)
    assert len(LaneSampler(segments, 2, seed=0)) == 2
    with pytest.raises(ValueError, match="2 segments cannot fill 3 lanes: use a smaller batch or segment"):
        LaneSampler(segments, 3, seed=0)
