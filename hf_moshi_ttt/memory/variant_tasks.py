"""A passage that returns in another form: what is heard again is the same to a listener, and other codes.

`PassageTask` returns the same codes, which no second hearing of real sound does. Here the first hearing is a piece of
a recording and the later ones are the same piece of that recording in another form: at another phase of the codec's
frames, with noise, at another rate (`data/variants.py` makes them).

Axes: Q codebooks, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .recall_tasks import OTHER, UNSCORED, RecallBatch, with_streams


@dataclass(frozen=True)
class Rendering:
    """A recording in two forms.

    Args:
        first_QT: its codes as heard first.
        again_QT: its codes as heard again; may be longer or shorter.
        frame_of: the frame of `again_QT` at which the sound of a frame of `first_QT` begins.
    """

    first_QT: Tensor
    again_QT: Tensor
    frame_of: Callable[[int], int]

    def again(self, start: int, end: int) -> Tensor:
        """What the frames from `start` to `end` are when heard again, `[Q, frames]`."""
        return self.again_QT[:, self.frame_of(start) : self.frame_of(end)]


@dataclass
class VariantPassageTask:
    """A passage of a recording, heard once as it is and then in another form, in another recording.

    A slot of `gap_frames + passage_frames` frames for each hearing ends with the passage; where a form is longer or
    shorter than the passage, the gap before it is shorter or longer.

    Args:
        renderings: each passage is drawn from one of them, chosen at random.
        recordings: what surrounds the passages, codes `[Q, T]`; those of `renderings` as heard first, if None.
        skip_frames: first frames of a passage that nobody can foresee, and that are not scored.
    """

    renderings: Sequence[Rendering]
    num_ids: int
    passage_frames: int = 24
    gap_frames: int = 40
    hearings: int = 4
    skip_frames: int = 4
    recordings: Sequence[Tensor] | None = None

    def __post_init__(self) -> None:
        lengths = [piece.shape[1] for each in self.renderings for piece in (each.first_QT, each.again_QT)]
        longest = self.passage_frames + self.gap_frames
        if not lengths or min(lengths) <= 2 * longest:
            found = f"the shortest has {min(lengths)} frames" if lengths else "none is given"
            raise ValueError(f"Recordings in two forms: {found}, but they need more than {2 * longest}.")
        shortest = min((piece.shape[1] for piece in self._surroundings()), default=0)
        if shortest <= self.frames:
            raise ValueError(
                f"A recording has {shortest} frames, but pieces of {self.frames} frames are cut from each: leave out "
                f"what is not longer."
            )

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return len(self.renderings[0].first_QT)

    @property
    def frames(self) -> int:
        """T."""
        return (self.passage_frames + self.gap_frames) * self.hearings

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; the other frames are scored from the first return on."""
        audio, hearing = zip(*(self._row(generator) for _ in range(rows)), strict=True)
        return RecallBatch(with_streams(torch.stack(audio)), torch.stack(hearing))

    def _surroundings(self) -> Sequence[Tensor]:
        return [each.first_QT for each in self.renderings] if self.recordings is None else self.recordings

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        first_QP, again_QP = self._passage(generator)
        audio = _piece(self._surroundings(), self.frames, generator).clone()
        hearing = torch.full((self.frames,), UNSCORED)
        slot = self.passage_frames + self.gap_frames
        for number in range(1, self.hearings + 1):
            passage_QP = first_QP if number == 1 else again_QP
            end = number * slot
            start = end - passage_QP.shape[1]
            audio[:, start:end] = passage_QP
            hearing[start + self.skip_frames : end - 1] = number
            if number > 1:
                hearing[end - slot : start] = OTHER
        return audio, hearing

    def _passage(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """A passage as heard first and again, `[Q, frames]` each."""
        rendering = self.renderings[int(torch.randint(len(self.renderings), (), generator=generator))]
        last = rendering.first_QT.shape[1] - self.passage_frames
        while True:
            start = int(torch.randint(last, (), generator=generator))
            end = start + self.passage_frames
            if rendering.frame_of(end) <= rendering.again_QT.shape[1]:
                return rendering.first_QT[:, start:end], rendering.again(start, end)


def _piece(recordings: Sequence[Tensor], frames: int, generator: Generator) -> Tensor:
    """A piece `[Q, frames]` from a random place of a random recording."""
    recording = recordings[int(torch.randint(len(recordings), (), generator=generator))]
    start = int(torch.randint(recording.shape[1] - frames, (), generator=generator))
    return recording[:, start : start + frames]
