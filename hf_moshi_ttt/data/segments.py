"""Recordings cut into training segments, and the order in which they are seen.

`shuffled` draws every segment once an epoch. `lanes` is truncated backpropagation through time over parallel streams,
for memory that is carried from one segment to the next: the recordings, in shuffled order, form one long tape that is
cut into B lanes of equal length, and batch row b walks lane b. A segment says which recording it comes from and where
it starts, and `starts_recording` says where a lane is reset: at the start of a recording, and where the tape was cut
inside one.

The samplers fill the rows of the last batches that no segment is left for with empty ones, so each segment comes
exactly once an epoch however many processes share the batches, and all of them have as many. Held-out segments come in
order.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler

from ..codec.audio import FRAME_RATE_HZ


class Place(NamedTuple):
    """What a sampler asks for: a segment by number, or None for an empty row, and whether the lane is reset."""

    segment: int | None
    starts_recording: bool


EMPTY = Place(None, True)


class SegmentDataset(torch.utils.data.Dataset):
    """Segments of `segment_frames` of the recordings in a dataset of codes, in order of recording and time.

    The last segment of a recording is shorter; pieces below `min_frames` are left out and counted in `dropped_frames`.
    Only the frames asked for are read.

    Args:
        overlap_frames: frames that a segment shares with the one before it.
        frame_rate_hz: of the codes, handed on with each segment.

    Raises:
        ValueError: no recording is long enough for a segment, segments that do not move on, or no `Dataset` of codes.
    """

    def __init__(
        self,
        codes: Dataset,
        segment_frames: int,
        min_frames: int = 2,
        overlap_frames: int = 0,
        frame_rate_hz: float = FRAME_RATE_HZ,
    ) -> None:
        if not isinstance(codes, Dataset) or not {"codes", "frames"} <= set(codes.column_names):
            raise ValueError(
                f"{type(codes).__name__} with {getattr(codes, 'column_names', 'no columns')}, but segments are cut "
                "from a datasets.Dataset with the columns codes and frames, as load_codes gives it: take one split of "
                "a DatasetDict, and no streaming (MoshiTTTCollator takes whole recordings as they come)."
            )
        if not 0 <= overlap_frames < segment_frames:
            raise ValueError(
                f"segment_frames={segment_frames} and overlap_frames={overlap_frames}, but the overlap must be 0 or "
                "more and shorter than the segment."
            )
        self.segment_frames = segment_frames
        self.overlap_frames = overlap_frames
        self.frame_rate_hz = frame_rate_hz
        self._codes = codes.select_columns("codes").with_format("arrow")
        lengths = [int(frames) for frames in codes["frames"][:]]
        if not lengths:
            raise ValueError("The dataset of codes holds no recordings.")
        self.spans: list[tuple[int, int]] = []
        self.dropped_frames = 0
        for row, length in enumerate(lengths):
            for start in range(0, max(1, length - overlap_frames), segment_frames - overlap_frames):
                unseen = length - start - (overlap_frames if start else 0)
                if unseen >= min_frames:
                    self.spans.append((row, start))
                else:
                    self.dropped_frames += unseen
        if not self.spans:
            raise ValueError(f"No recording has {min_frames} frames; the longest of {len(lengths)} has {max(lengths)}.")

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, place: int | Place) -> dict[str, Any]:
        """`codes` `[K, T]` as they are stored, its `recording` number, its first frame `start_frame` and
        `starts_recording`.

        An empty row has None for codes and -1 for the numbers.
        """
        index, starts = place if isinstance(place, tuple) else (place, None)
        if index is None:
            return self._item(None, -1, -1, True)
        row, start = self.spans[index]
        return self._item(self._read(row, start), row, start, start == 0 if starts is None else starts)

    def _item(self, codes: np.ndarray | None, recording: int, start_frame: int, starts: bool) -> dict[str, Any]:
        return {
            "codes": codes,
            "recording": recording,
            "start_frame": start_frame,
            "starts_recording": starts,
            "frame_rate_hz": self.frame_rate_hz,
        }

    def _read(self, row: int, start: int) -> np.ndarray:
        """A copy of the frames of one segment, out of the Arrow table without a detour over Python lists."""
        rows = self._codes[row].column("codes").chunk(0).flatten()
        values = rows.flatten().to_numpy(zero_copy_only=True).reshape(len(rows), -1)
        return values[:, start : start + self.segment_frames].copy()


class ShuffledSampler(Sampler[Place]):
    """Every segment once an epoch in an order that depends only on seed and epoch.

    Args:
        rows: rows of a batch over all processes.
    """

    def __init__(self, segments: SegmentDataset, rows: int, seed: int) -> None:
        self.segments, self.rows, self.seed, self.epoch = segments, rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.segments) // self.rows) * self.rows

    def __iter__(self) -> Iterator[Place]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.segments))
        for index in order:
            yield Place(int(index), self.segments.spans[index][1] == 0)
        yield from [EMPTY] * (len(self) - len(order))


class InOrderSampler(Sampler[Place]):
    """Every segment once, in order; rows that are left over are empty.

    Args:
        rows: rows of a batch over all processes; 1 for no empty rows.
    """

    def __init__(self, segments: SegmentDataset, rows: int) -> None:
        self.segments, self.rows = segments, rows

    def __len__(self) -> int:
        return -(-len(self.segments) // self.rows) * self.rows

    def __iter__(self) -> Iterator[Place]:
        for index, (_, start) in enumerate(self.segments.spans):
            yield Place(index, start == 0)
        yield from [EMPTY] * (len(self) - len(self.segments))


class LaneSampler(Sampler[Place]):
    """Segments such that row b of every batch walks lane b; the order depends only on seed and epoch.

    Args:
        lanes: rows of a batch over all processes.

    Raises:
        ValueError: fewer segments than lanes, or segments that overlap.
    """

    def __init__(self, segments: SegmentDataset, lanes: int, seed: int) -> None:
        if len(segments) < lanes:
            raise ValueError(f"{len(segments)} segments cannot fill {lanes} lanes: use a smaller batch or segment.")
        if segments.overlap_frames:
            raise ValueError(
                f"overlap_frames={segments.overlap_frames}, but lanes carry the memory from segment to segment and "
                "must not see a frame twice. Use no overlap, or order='shuffled'."
            )
        self.segments, self.lanes, self.seed, self.epoch = segments, lanes, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of recordings."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.segments) // self.lanes) * self.lanes

    def __iter__(self) -> Iterator[Place]:
        walks = np.array_split(self._tape(), self.lanes)
        for step in range(len(self) // self.lanes):
            for walk in walks:
                if step < len(walk):
                    index = int(walk[step])
                    yield Place(index, step == 0 or self.segments.spans[index][1] == 0)
                else:
                    yield EMPTY

    def _tape(self) -> list[int]:
        recordings: dict[int, list[int]] = {}
        for index, (row, _) in enumerate(self.segments.spans):
            recordings.setdefault(row, []).append(index)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(recordings))
        groups = list(recordings.values())
        return [index for position in order for index in groups[position]]
