"""Recordings as they are, in which lines are said again: losses of new lines, returned lines and what lies between.

Axes: Q codebooks, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .recall_tasks import OTHER, UNSCORED, RecallBatch, drawn, require_long


@dataclass(frozen=True)
class SaidRecording:
    """A recording and what is said in it.

    Args:
        codes_QT: its codes.
        saying_T: `[T]`, the number of the saying, which grows with time; -1 between sayings.
        text_of_saying: `[sayings]`, equal numbers for equal words.
    """

    codes_QT: Tensor
    saying_T: Tensor
    text_of_saying: Tensor


_MOST_TRIES = 1000


@dataclass
class LinesTask:
    """Pieces of recordings; the first hearing of a line in a piece is hearing 1, every later one hearing 2.

    Every piece has both.

    Args:
        skip_frames: first frames of a line, before which nobody can know that it returns; they are not scored.
    """

    recordings: Sequence[SaidRecording]
    num_ids: int
    frames: int = 384
    skip_frames: int = 4
    hearings: int = 2

    def __post_init__(self) -> None:
        require_long([each.codes_QT for each in self.recordings], self.frames)

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return len(self.recordings[0].codes_QT)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; what lies between lines counts as other frames."""
        return drawn(self._row, rows, generator)

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        for _ in range(_MOST_TRIES):
            recording = self.recordings[int(torch.randint(len(self.recordings), (), generator=generator))]
            start = int(torch.randint(recording.codes_QT.shape[1] - self.frames, (), generator=generator))
            piece = slice(start, start + self.frames)
            hearing_T = self._hearings(recording.saying_T[piece], recording.text_of_saying)
            if set(hearing_T.tolist()) >= {OTHER, 1, 2}:
                return recording.codes_QT[:, piece], hearing_T
        raise ValueError(f"In {_MOST_TRIES} pieces of {self.frames} frames no line returned: give longer pieces.")

    def _hearings(self, saying_T: Tensor, text_of_saying: Tensor) -> Tensor:
        """The number of each frame's hearing within a piece `[T]`."""
        hearing_T = torch.full((len(saying_T),), OTHER)
        heard: set[int] = set()
        for saying in saying_T[saying_T >= 0].unique(sorted=True).tolist():
            places = (saying_T == saying).nonzero()[:, 0]
            text = int(text_of_saying[saying])
            hearing_T[places] = UNSCORED
            hearing_T[places[self.skip_frames :]] = 2 if text in heard else 1
            heard.add(text)
        hearing_T[-1] = UNSCORED  # delayed codebooks have no prediction there
        return hearing_T
