"""Recordings as they are, in which lines are said again: losses of new lines, returned lines and what lies between.

`LinesTask` scores pieces of recordings that nothing was heard before, `LongLinesTask` pieces after what a memory has
heard: minutes of the same recording, or of another.

Axes: Q codebooks, R rows (these and the number of the recording), T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Generator, Tensor

from .cuts import cut, numbered, require_long
from .recall_tasks import OTHER, UNSCORED, RecallBatch, drawn, of_recordings


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
class _OfLines:
    """A task of pieces of recordings whose lines are known.

    Args:
        skip_frames: first frames of a line, before which nobody can know that it returns; they are not scored.
    """

    recordings: Sequence[SaidRecording]
    num_ids: int
    skip_frames: int = field(default=4, kw_only=True)

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return len(self.recordings[0].codes_QT)

    @cached_property
    def _numbered(self) -> list[Tensor]:
        """Codes `[Q + 1, T]` with the numbers of their recordings, which pieces are cut from."""
        return numbered([each.codes_QT for each in self.recordings])

    def _require_long(self, frames: int) -> None:
        require_long([each.codes_QT for each in self.recordings], frames)

    def _piece(self, frames: int, first: int, wanted: set[int], generator: Generator) -> tuple[int, Tensor, Tensor]:
        """The place of a recording, a piece `[Q + 1, frames]` of it, and the hearings of its frames from `first`
        on, with those wanted among them."""
        for _ in range(_MOST_TRIES):
            place = int(torch.randint(len(self.recordings), (), generator=generator))
            recording = self.recordings[place]
            start = int(torch.randint(recording.codes_QT.shape[1] - frames, (), generator=generator))
            piece = slice(start, start + frames)
            hearing_T = _hearings(recording.saying_T[piece], recording.text_of_saying, first, self.skip_frames)[first:]
            if set(hearing_T.tolist()) >= wanted:
                return place, self._numbered[place][:, piece], hearing_T
        raise ValueError(f"In {_MOST_TRIES} pieces of {frames} frames no line returned: give longer pieces.")


@dataclass
class LinesTask(_OfLines):
    """Pieces of recordings; the first hearing of a line in a piece is hearing 1, every later one hearing 2.

    Every piece has both; `skip_frames` first frames of each are not scored.
    """

    frames: int = 384
    hearings: int = 2

    def __post_init__(self) -> None:
        self._require_long(self.frames)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; what lies between lines counts as other frames."""
        return drawn(self._row, rows, generator, of_recordings)

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        return self._piece(self.frames, 0, {OTHER, 1, 2}, generator)[1:]


@dataclass
class LongLinesTask(_OfLines):
    """Pieces of recordings after something else; the same frames are scored whatever that was.

    Hearing 1 are new lines, hearing 2 lines that were said before in the piece, hearing 3 those that were said in the
    `before_frames` frames of their recording before it and not in the piece: only a memory that was carried to it has
    them. A line that begins before the piece counts as said before it. Every piece has all three.

    Args:
        piece_frames: frames that are scored.
        before_frames: frames before them.
        before: what these are: `"own"` for the recording's own, `"other"` for a piece of another recording,
            `"nothing"` for none at all.
    """

    piece_frames: int = 384
    before_frames: int = 1152
    before: str = "own"
    hearings: int = 3

    def __post_init__(self) -> None:
        if self.before not in ("own", "other", "nothing"):
            raise ValueError(f"before={self.before!r}, but it must be own, other or nothing.")
        if len(self.recordings) < 2:
            raise ValueError(f"{len(self.recordings)} recording, but what is heard before is of another one, too.")
        self._require_long(self.before_frames + self.piece_frames)

    @property
    def frames(self) -> int:
        """T."""
        return self.piece_frames + (0 if self.before == "nothing" else self.before_frames)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; what lies between lines counts as other frames, what is heard before is not scored."""
        return drawn(self._row, rows, generator, of_recordings)

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        first = self.before_frames
        own, piece_RT, hearing_T = self._piece(first + self.piece_frames, first, {OTHER, 1, 2, 3}, generator)
        others = [each for place, each in enumerate(self._numbered) if place != own]
        other_RT = cut(others, first, generator)  # drawn in any case, so that the pieces are the same
        if self.before == "nothing":
            return piece_RT[:, first:], hearing_T
        unscored = torch.full((first,), UNSCORED)
        before_RT = piece_RT[:, :first] if self.before == "own" else other_RT
        return torch.cat([before_RT, piece_RT[:, first:]], dim=1), torch.cat([unscored, hearing_T])


def _hearings(saying_T: Tensor, text_of_saying: Tensor, first: int, skip_frames: int) -> Tensor:
    """Of each frame `[T]`: 1 in new lines, 2 in those last said from frame `first` on, 3 in those before it."""
    hearing_T = torch.full((len(saying_T),), OTHER)
    heard: dict[int, int] = {}
    for saying in saying_T[saying_T >= 0].unique(sorted=True).tolist():
        places = (saying_T == saying).nonzero()[:, 0]
        text = int(text_of_saying[saying])
        hearing_T[places] = UNSCORED
        hearing_T[places[skip_frames:]] = 1 if text not in heard else 2 if heard[text] >= first else 3
        heard[text] = int(places[0])
    hearing_T[-1] = UNSCORED  # delayed codebooks have no prediction there
    return hearing_T
