"""Recordings cut into training segments, and the order in which they are seen.

`shuffled` draws every segment once an epoch. `lanes` is for memory that is carried from one segment to the next: the
recordings, in shuffled order, form one long tape that is cut into B equal lanes, and batch row b walks lane b. A
segment says which recording it comes from and where it starts: the memory starts afresh where a lane does not go on.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import Sampler


class SegmentDataset(torch.utils.data.Dataset):
    """Segments of `segment_frames` of the recordings in a dataset of codes, in order of recording and time.

    The last segment of a recording is shorter; pieces below `min_frames` are left out and counted in `dropped_frames`.

    Raises:
        ValueError: no recording is long enough for a segment.
    """

    def __init__(self, codes: Dataset, segment_frames: int, min_frames: int = 2) -> None:
        self.codes = codes
        self.segment_frames = segment_frames
        lengths = [int(frames) for frames in codes["frames"]]
        if not lengths:
            raise ValueError("The dataset of codes holds no recordings.")
        starts = [(row, start) for row, length in enumerate(lengths) for start in range(0, length, segment_frames)]
        self.spans = [(row, start) for row, start in starts if lengths[row] - start >= min_frames]
        self.dropped_frames = sum(lengths[row] - start for row, start in set(starts) - set(self.spans))
        if not self.spans:
            raise ValueError(f"No recording has {min_frames} frames; the longest of {len(lengths)} has {max(lengths)}.")

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`codes` int16 `[K, T]`, its `recording` number and its first frame `start_frame`."""
        row, start = self.spans[index]
        part = np.stack(self.codes[row]["codes"])[:, start : start + self.segment_frames].astype(np.int16)
        return {"codes": part, "recording": row, "start_frame": start}


class LaneSampler(Sampler[int]):
    """Indices of segments such that row b of every batch walks lane b; the order depends on seed and epoch alone.

    Args:
        lanes: rows of a batch over all processes.

    Raises:
        ValueError: fewer segments than lanes.
    """

    def __init__(self, segments: SegmentDataset, lanes: int, seed: int) -> None:
        if len(segments) < lanes:
            raise ValueError(f"{len(segments)} segments cannot fill {lanes} lanes: use a smaller batch or segment.")
        self.segments, self.lanes, self.seed, self.epoch = segments, lanes, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of recordings."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.segments) // self.lanes * self.lanes

    def __iter__(self) -> Iterator[int]:
        tape = self._tape()
        length = len(self) // self.lanes
        for step in range(length):
            for lane in range(self.lanes):
                yield tape[lane * length + step]

    def _tape(self) -> list[int]:
        recordings: dict[int, list[int]] = {}
        for index, (row, _) in enumerate(self.segments.spans):
            recordings.setdefault(row, []).append(index)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(recordings))
        groups = list(recordings.values())
        return [index for position in order for index in groups[position]]
