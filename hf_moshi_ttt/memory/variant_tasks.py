"""A passage that returns in another form: what is heard again is the same to a listener, and other codes.

`PassageTask` returns the same codes, which no second hearing of real sound does. Here the first hearing is a piece of
a recording and each later one is the same piece of that recording in another form: at another phase of the codec's
frames, with noise, at another rate (`data/variants.py` makes them).

Axes: Q codebooks, T frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from .cuts import cut, numbered, require_long, with_number
from .recall_tasks import OTHER, UNSCORED, RecallBatch, drawn, of_recordings


@dataclass(frozen=True)
class Rendering:
    """A recording in another form.

    Args:
        codes_QT: its codes; it may be longer or shorter than the recording.
        frame_of: the frame of `codes_QT` at which the sound of a frame of the recording begins.
    """

    codes_QT: Tensor
    frame_of: Callable[[int], int]

    def piece(self, start: int, end: int) -> Tensor:
        """What the recording's frames from `start` to `end` are in this form, `[Q, frames]`."""
        return self.codes_QT[:, self.frame_of(start) : self.frame_of(end)]

    def holds(self, end: int) -> bool:
        """Whether the recording's frames up to `end` are there."""
        return self.frame_of(end) <= self.codes_QT.shape[1]


@dataclass(frozen=True)
class RenderedRecording:
    """A recording as it is heard first, `[Q, T]`, and in one or more forms as it is heard again."""

    codes_QT: Tensor
    forms: Sequence[Rendering]


@dataclass
class VariantPassageTask:
    """A passage of a recording, heard once as it is and then in other forms, in another recording.

    A slot of `gap_frames + passage_frames` frames for each hearing ends with the passage; where a form is longer or
    shorter than the passage, the gap before it is shorter or longer. With two hearings, the second says what is
    recalled of the other form alone; a third hearing may be in the form of the second.

    Args:
        rendered: each passage is drawn from one of them, and the form of each later hearing from its forms.
        recordings: what surrounds the passages, codes `[Q, T]`; those of `rendered` as heard first, if None.
        skip_frames: first frames of a passage that nobody can foresee, and that are not scored.
    """

    rendered: Sequence[RenderedRecording]
    num_ids: int
    passage_frames: int = 24
    gap_frames: int = 40
    hearings: int = 2
    skip_frames: int = 4
    recordings: Sequence[Tensor] | None = None

    def __post_init__(self) -> None:
        heard = [codes_QT for each in self.rendered for codes_QT in (each.codes_QT, *(f.codes_QT for f in each.forms))]
        lengths = [codes_QT.shape[1] for codes_QT in heard]
        longest = self.passage_frames + self.gap_frames
        if not lengths or min(lengths) <= 2 * longest:
            found = f"the shortest has {min(lengths)} frames" if lengths else "none is given"
            raise ValueError(f"Recordings in two forms: {found}, but they need more than {2 * longest}.")
        require_long(self._surroundings(), self.frames)

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return len(self.rendered[0].codes_QT)

    @property
    def frames(self) -> int:
        """T."""
        return (self.passage_frames + self.gap_frames) * self.hearings

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; the other frames are scored from the first return on."""
        return drawn(self._row, rows, generator, of_recordings)

    def _surroundings(self) -> Sequence[Tensor]:
        return [each.codes_QT for each in self.rendered] if self.recordings is None else self.recordings

    @cached_property
    def _numbered_surroundings(self) -> list[Tensor]:
        return numbered(self._surroundings())

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        passages = self._passages(generator)
        audio = cut(self._numbered_surroundings, self.frames, generator).clone()
        hearing = torch.full((self.frames,), UNSCORED)
        slot = self.passage_frames + self.gap_frames
        for number, passage_RP in enumerate(passages, start=1):
            end = number * slot
            start = end - passage_RP.shape[1]
            audio[:, start:end] = passage_RP
            hearing[start + self.skip_frames : end - 1] = number
            if number > 1:
                hearing[end - slot : start] = OTHER
        return audio, hearing

    def _passages(self, generator: Generator) -> list[Tensor]:
        """A passage at each of its hearings, `[Q + 1, frames]`, the last row the number of its recording."""
        place = int(torch.randint(len(self.rendered), (), generator=generator))
        recording = self.rendered[place]
        chosen = torch.randint(len(recording.forms), (self.hearings - 1,), generator=generator).tolist()
        forms = [recording.forms[place] for place in chosen]
        last = recording.codes_QT.shape[1] - self.passage_frames
        while True:
            start = int(torch.randint(last, (), generator=generator))
            end = start + self.passage_frames
            if all(form.holds(end) for form in forms):
                heard = [recording.codes_QT[:, start:end], *(form.piece(start, end) for form in forms)]
                return [with_number(codes_QP, place) for codes_QP in heard]
