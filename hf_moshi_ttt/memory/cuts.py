"""Pieces that are cut from recordings and tell which recording each of their frames comes from.

Many pieces of few recordings are not independent of each other: who measures on them counts recordings.

Axes: Q codebooks, T frames.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def numbered(recordings: Sequence[Tensor]) -> list[Tensor]:
    """Recordings `[Q + 1, T]` of codes `[Q, T]`; the last row says the number of the recording in the list."""
    return [with_number(codes_QT, number) for number, codes_QT in enumerate(recordings)]


def with_number(codes_QT: Tensor, number: int) -> Tensor:
    """Codes with a row below them that says the number of their recording, `[Q + 1, T]`."""
    return torch.cat([codes_QT, torch.full_like(codes_QT[:1], number)])


def cut(recordings: Sequence[Tensor], frames: int, generator: Generator) -> Tensor:
    """A piece of `frames` frames from a random place of a random recording, with all its rows."""
    recording = recordings[int(torch.randint(len(recordings), (), generator=generator))]
    start = int(torch.randint(recording.shape[1] - frames, (), generator=generator))
    return recording[:, start : start + frames]


def require_long(recordings: Sequence[Tensor], frames: int) -> None:
    """Refuses recordings that pieces of `frames` frames cannot be cut from.

    Raises:
        ValueError: there is none, or one is not longer.
    """
    if not recordings:
        raise ValueError(f"No recording: pieces of {frames} frames are cut from at least one.")
    shortest = min(recording.shape[1] for recording in recordings)
    if shortest <= frames:
        raise ValueError(
            f"A recording has {shortest} frames, but pieces of {frames} frames are cut from each: leave out what is "
            f"not longer than {frames} frames."
        )
