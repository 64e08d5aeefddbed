"""Every window is seen exactly once an epoch, and along lanes each batch row walks recordings in sequence."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Column, Dataset, DatasetDict, Features, Value, concatenate_datasets
from datasets import List as ListFeature

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.codes import data_fingerprint, load_codes
from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.data.mixture import mix
from hf_moshi_ttt.data.segments import EMPTY, LaneSampler, Place, SegmentDataset, ShuffledSampler

from ..conftest import save_codes

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


def places(sampler: LaneSampler | ShuffledSampler, epoch: int = 0) -> list[Place]:
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def walks(segments: SegmentDataset, lanes: int, seed: int, epoch: int = 0) -> list[list[Place]]:
    """What each batch row sees, without the empty rows at the end."""
    found = places(LaneSampler(segments, lanes, seed), epoch)
    return [[place for place in found[lane::lanes] if place.segment is not None] for lane in range(lanes)]


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_each_lane_walks_recordings_in_sequence(seed: int, lanes: int) -> None:
    segments, lengths = random_segments(seed)
    for walk in walks(segments, lanes, seed):
        items = [segments[place] for place in walk]
        assert items[0]["starts_recording"]
        for before, after in zip(items[:-1], items[1:], strict=True):
            end = before["start_frame"] + before["codes"].shape[1]
            if after["recording"] == before["recording"]:
                assert after["start_frame"] == end and not after["starts_recording"]
            else:
                assert after["start_frame"] == 0 and after["starts_recording"]
                assert end >= lengths[before["recording"]] - 1  # nothing of it was left out but a single last frame


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(8))
def test_every_segment_comes_once_and_lanes_are_balanced(seed: int, lanes: int) -> None:
    segments, _ = random_segments(seed)
    rows = walks(segments, lanes, seed)
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert sorted(place.segment for row in rows for place in row) == list(range(len(segments)))
    shuffled = places(ShuffledSampler(segments, lanes, seed))
    assert len(shuffled) % lanes == 0 and len(shuffled) < len(segments) + lanes
    assert sorted(place.segment for place in shuffled if place != EMPTY) == list(range(len(segments)))
    assert all(place.starts_recording == (segments[place]["start_frame"] == 0) for place in shuffled if place != EMPTY)


def test_a_lane_may_start_afresh_within_a_recording() -> None:
    segments = SegmentDataset(corpus([12]), segment_frames=3)
    assert walks(segments, 2, seed=0) == [[Place(0, True), Place(1, False)], [Place(2, True), Place(3, False)]]


def test_an_empty_row_is_no_segment() -> None:
    segments = SegmentDataset(corpus([6]), segment_frames=3)
    found = [segments[place] for place in places(ShuffledSampler(segments, 3, seed=0))]
    assert [item["recording"] for item in found] == [0, 0, -1]
    assert found[2]["codes"] is None and found[2]["starts_recording"] and found[2]["start_frame"] == -1


@pytest.mark.parametrize("kind", [LaneSampler, ShuffledSampler])
def test_the_order_depends_on_seed_and_epoch_alone(kind: type) -> None:
    segments, _ = random_segments(3)
    again, _ = random_segments(3)
    assert places(kind(segments, 2, 5), epoch=1) == places(kind(again, 2, 5), epoch=1)
    orders = [places(kind(segments, 2, seed), epoch) for seed in (5, 6) for epoch in (0, 1)]
    assert all(orders[i] != orders[j] for i in range(4) for j in range(i))


def test_more_lanes_than_segments_are_refused() -> None:
    segments = SegmentDataset(corpus([6]), segment_frames=3)
    assert len(LaneSampler(segments, 2, seed=0)) == 2
    with pytest.raises(ValueError, match="2 segments cannot fill 3 lanes: use a smaller batch or segment"):
        LaneSampler(segments, 3, seed=0)


def test_lanes_do_not_see_a_frame_twice() -> None:
    segments = SegmentDataset(corpus([20]), segment_frames=5, overlap_frames=2)
    with pytest.raises(ValueError, match="overlap_frames=2, but lanes carry the memory from segment to segment"):
        LaneSampler(segments, 1, seed=0)


@pytest.mark.parametrize("seed", range(8))
def test_overlapping_segments_cover_everything(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randrange(1, 60) for _ in range(10)] + [40]
    frames = rng.randrange(3, 12)
    overlap = rng.randrange(1, frames)
    segments = SegmentDataset(corpus(lengths), frames, overlap_frames=overlap)
    items = [segments[index] for index in range(len(segments))]
    seen = {(int(i), int(t)) for item in items for i, t in item["codes"].T}
    assert len(seen) == sum(lengths) - segments.dropped_frames
    for before, after in zip(items[:-1], items[1:], strict=True):
        if after["recording"] == before["recording"]:
            end = before["start_frame"] + before["codes"].shape[1]
            assert end - after["start_frame"] == overlap
            assert after["codes"].shape[1] >= min(frames, overlap + 2)  # no segment of old frames alone


@pytest.mark.parametrize("overlap", [-1, 3, 4])
def test_segments_that_do_not_move_on_are_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=rf"segment_frames=3 and overlap_frames={overlap}, but the overlap must be"):
        SegmentDataset(corpus([9]), segment_frames=3, overlap_frames=overlap)


def test_selected_and_shuffled_recordings_are_read_right() -> None:
    """Datasets with an indices mapping, and from several files."""
    codes = concatenate_datasets([corpus([5, 4]), corpus([7])]).select([2, 0])
    segments = SegmentDataset(codes, segment_frames=4)
    assert [segments[i]["codes"].tolist() for i in range(3)] == [
        [[0] * 4, [0, 1, 2, 3]], [[0] * 3, [4, 5, 6]], [[0] * 4, [0, 1, 2, 3]],
    ]  # fmt: skip


def test_codes_are_cut_from_one_dataset_as_they_are_stored() -> None:
    rows = corpus([7])
    for given, name in (
        (rows.to_iterable_dataset(), "IterableDataset with .'codes', 'frames'.,"),
        (DatasetDict(train=rows), "DatasetDict with {'train': "),
        (rows.remove_columns("frames"), "Dataset with .'codes'., "),
    ):
        with pytest.raises(ValueError, match=f"{name}.* from a datasets.Dataset with the columns codes and frames"):
            SegmentDataset(given, segment_frames=3)
    wide = Dataset.from_list([{"codes": [[40_000, 70_000]], "frames": 2}])
    assert SegmentDataset(wide, segment_frames=2)[0]["codes"].tolist() == [[40_000, 70_000]]


def test_the_codes_of_a_segment_may_be_changed() -> None:
    segments = SegmentDataset(corpus([6]), segment_frames=3)
    segments[0]["codes"] += 1
    assert segments[0]["codes"].tolist() == [[0, 0, 0], [0, 1, 2]]


def test_memory_stays_flat_over_an_epoch(tmp_path: Path) -> None:
    """64 MB of codes on disk, read through a data loader: nothing of them stays in memory."""
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 2048, (8, 10_000), dtype=np.int16) for _ in range(400)]
    columns = {"codes": rows, "frames": [10_000] * 400}
    Dataset.from_dict(columns, features=FEATURES).save_to_disk(str(tmp_path / "codes"))
    del rows, columns
    segments = SegmentDataset(Dataset.load_from_disk(str(tmp_path / "codes")), segment_frames=500)
    collator = MoshiTTTCollator(MoshiTTTConfig.from_preset("small"))
    loader = torch.utils.data.DataLoader(segments, 8, sampler=ShuffledSampler(segments, 8, 0), collate_fn=collator)
    used_kib = []
    for batch in loader:
        assert batch["codes"].shape == (8, 17, 500)
        used_kib.append(anonymous_kib())
    assert len(used_kib) == 1000
    assert max(used_kib[500:]) - max(used_kib[:100]) < 8_000


def anonymous_kib() -> int:
    """Memory of this process without mapped files."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return int(line.split()[1])


TWO_RANKS = """
import json, sys
from hf_moshi_ttt.training.run import prepare

codes, folder = sys.argv[1:]
for order in ("lanes", "shuffled"):
    trainer, _ = prepare(dict(
        preset="tiny", train_codes=codes, output_dir=folder, duration_sec=0.88, max_steps=1, use_cpu=True, order=order,
        per_device_train_batch_size=3, dataloader_num_workers=2,
    ))
    loader = trainer.get_train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        keys = ("recording", "start_frame", "starts_recording", "lengths")
        epochs.append([{key: batch[key].tolist() for key in keys} for batch in loader])
    with open(f"{folder}/{order}-{trainer.args.process_index}.json", "w") as file:
        json.dump(epochs, file)
"""


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of a training run, with two data workers each, see of 7 recordings in two epochs."""
    folder = tmp_path_factory.mktemp("ranks")
    codes = save_codes(folder / "codes", [100, 61, 44, 37, 11, 5, 23])
    (folder / "see.py").write_text(TWO_RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    command = [*launch, str(folder / "see.py"), str(codes), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def seen_by(folder: Path, order: str, epoch: int) -> list[list[dict]]:
    return [json.loads((folder / f"{order}-{rank}.json").read_text())[epoch] for rank in range(2)]


@pytest.mark.parametrize("order", ["lanes", "shuffled"])
def test_two_ranks_together_see_every_window_exactly_once(two_ranks: Path, order: str) -> None:
    lengths = [100, 61, 44, 37, 11, 5, 23]
    windows = [
        (row, start) for row, length in enumerate(lengths) for start in range(0, length, 11) if length - start > 1
    ]
    orders = []
    for epoch in range(2):
        ranks = seen_by(two_ranks, order, epoch)
        assert len(ranks[0]) == len(ranks[1]) == -(-len(windows) // 6)
        seen = [
            (row, start)
            for batches in ranks
            for batch in batches
            for row, start in zip(batch["recording"], batch["start_frame"], strict=True)
            if row >= 0
        ]
        assert sorted(seen) == windows
        orders.append(seen)
    assert orders[0] != orders[1]


def test_lanes_of_two_ranks_walk_in_sequence(two_ranks: Path) -> None:
    for batches in seen_by(two_ranks, "lanes", 0):
        for lane in range(3):
            steps = [{key: batch[key][lane] for key in batch} for batch in batches if batch["recording"][lane] >= 0]
            for before, after in zip(steps[:-1], steps[1:], strict=True):
                goes_on = after["recording"] == before["recording"]
                assert after["starts_recording"] != goes_on
                assert after["start_frame"] == (before["start_frame"] + before["lengths"] if goes_on else 0)


def test_columns_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column of `datasets` that is iterated reads row by row: 20,000 recordings took 4 s instead of 30 ms."""
    codes, provenance = load_codes(save_codes(tmp_path, [40, 30, 20]))

    def read_by_row(_: Column) -> None:
        raise AssertionError("a column was iterated")

    monkeypatch.setattr(Column, "__iter__", read_by_row)
    assert len(SegmentDataset(codes, 10)) == 9
    assert len(mix([codes, codes], [1, 1])) == 6
    assert data_fingerprint(codes, provenance)
