"""Tasks that attention cannot solve and a memory can: sequences of codes in which something heard before returns.

What returns lies further back than the attention window reaches, so its loss at the second hearing says whether
anything remembers it. A task draws batches of codes and says of each frame to which hearing it belongs:

- `MotifTask`: random frames, over and over, without anything between them.
- `PassageTask`: a passage of a recording that returns in another recording after so many of its frames.
- `ScatteredPassageTask`: the same at random distances, as many times as fit.
- `LoopTask`: a piece of random length over and over, at whose distances nothing can be learned by heart.
- `PairsTask`: keys with values among distractors; each key returns with its value.
- `NaturalTask`: recordings as they are.
- `SplicedTask`: recordings whose second half is another one's, where what was learned of the first misleads.

With `repeats=False` a task draws something else at every hearing: the control, in which nothing can be recalled.

Axes: B rows, K streams (text, Moshi's Q codebooks, the user's Q codebooks), T frames.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Generator, Tensor

from ..special_ids import NO_INPUT_ID
from .cuts import cut, numbered, require_long

OTHER = 0  # a frame outside of what returns
UNSCORED = -1  # a frame that nothing is measured on


@dataclass
class RecallBatch:
    """Codes `[B, K, T]`, and for each frame `[B, T]` the number of its hearing from 1 on, `OTHER` or `UNSCORED`.

    Args:
        recording_BT: the number of the recording that each frame comes from; None for random frames.
    """

    codes_BKT: Tensor
    hearing_BT: Tensor
    recording_BT: Tensor | None = None


class RecallTask(Protocol):
    """What draws batches."""

    @property
    def num_ids(self) -> int:
        """Ids of each codebook."""

    @property
    def num_codebooks(self) -> int:
        """Q."""

    @property
    def frames(self) -> int:
        """T."""

    @property
    def hearings(self) -> int:
        """How often something is heard; 0 where nothing is planted."""

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch of `rows`."""


@dataclass
class MotifTask:
    """Random frames of `num_codebooks` ids each, heard `hearings` times in a row.

    Args:
        text_vocab_size: with more than one codebook the text row holds random ids below it, which return too, and the
            user's rows are silent (always the same ids). With one codebook text is EPAD and the user absent.
    """

    num_ids: int = 32
    num_codebooks: int = 1
    motif_frames: int = 24
    hearings: int = 4
    repeats: bool = True
    text_vocab_size: int = 64

    @property
    def frames(self) -> int:
        """T."""
        return self.motif_frames * self.hearings

    @property
    def chance_nats(self) -> float:
        """The loss of a frame that nothing is known about."""
        return math.log(self.num_ids)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch in which every frame belongs to a hearing."""
        drawn = self.motif_frames if self.repeats else self.frames
        audio = torch.randint(self.num_ids, (rows, self.num_codebooks, drawn), generator=generator)
        text = torch.randint(self.text_vocab_size, (rows, 1, drawn), generator=generator)
        if self.repeats:
            audio, text = audio.repeat(1, 1, self.hearings), text.repeat(1, 1, self.hearings)
        hearing = torch.arange(self.hearings).repeat_interleave(self.motif_frames) + 1
        if self.num_codebooks == 1:
            return of_random_frames(audio, hearing.repeat(rows, 1))
        hearing[-1] = UNSCORED  # delayed codebooks have no prediction there
        return RecallBatch(torch.cat([text, audio, torch.zeros_like(audio)], dim=1), hearing.repeat(rows, 1))


@dataclass
class _OfRecordings:
    """A task whose frames are cut from recordings.

    Args:
        recordings: codes `[Q, T]` of any lengths.
    """

    recordings: Sequence[Tensor]
    num_ids: int

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return len(self.recordings[0])

    @cached_property
    def _numbered(self) -> list[Tensor]:
        """Recordings `[Q + 1, T]` with their numbers, which pieces are cut from."""
        return numbered(self.recordings)


@dataclass
class PassageTask(_OfRecordings):
    """A passage of one recording, heard `hearings` times in another one, `gap_frames` of which come before each.

    Args:
        skip_frames: first frames of a passage that nobody can foresee, and that are not scored.
    """

    passage_frames: int = 24
    gap_frames: int = 40
    hearings: int = 4
    skip_frames: int = 4
    repeats: bool = True

    def __post_init__(self) -> None:
        require_long(self.recordings, max(self.gap_frames * self.hearings, self.passage_frames))

    @property
    def frames(self) -> int:
        """T."""
        return (self.passage_frames + self.gap_frames) * self.hearings

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; the other frames are scored from the first return on."""
        audio = torch.stack([self._row(generator) for _ in range(rows)])
        hearing = torch.full((self.frames,), UNSCORED)
        for number in range(self.hearings):
            start = number * (self.gap_frames + self.passage_frames)
            middle, end = start + self.gap_frames, start + self.gap_frames + self.passage_frames
            hearing[middle + self.skip_frames : end - 1] = number + 1
            if number:
                hearing[start:middle] = OTHER
        return of_recordings(audio, hearing.repeat(rows, 1))

    def _row(self, generator: Generator) -> Tensor:
        passage = cut(self._numbered, self.passage_frames, generator)
        base = cut(self._numbered, self.gap_frames * self.hearings, generator)
        parts = []
        for gap in base.split(self.gap_frames, dim=1):
            if not self.repeats:
                passage = cut(self._numbered, self.passage_frames, generator)
            parts += [gap, passage]
        return torch.cat(parts, dim=1)


@dataclass
class ScatteredPassageTask(_OfRecordings):
    """A passage that returns at distances drawn log-uniformly between 8 and 360 frames, as often as it fits."""

    passage_frames: int = 24
    frames: int = 512
    hearings: int = 4
    skip_frames: int = 4

    def __post_init__(self) -> None:
        require_long(self.recordings, self.frames)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; hearings beyond `hearings` count as the last."""
        return drawn(self._row, rows, generator, of_recordings)

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        audio = cut(self._numbered, self.frames, generator).clone()
        passage = cut(self._numbered, self.passage_frames, generator)
        hearing, number = torch.full((self.frames,), OTHER), 1
        start = int(torch.randint(8, 60, (), generator=generator))
        while (end := start + self.passage_frames) <= self.frames:
            audio[:, start:end], hearing[start:end] = passage, UNSCORED
            hearing[start + self.skip_frames : end - 1] = min(number, self.hearings)
            start, number = end + int(2 ** (3 + 5.5 * torch.rand((), generator=generator))), number + 1
        return audio, hearing


@dataclass
class LoopTask:
    """A piece over and over, its length drawn log-uniformly, the whole filled with it.

    Attention that copies by position is of no use here: it has to find what it hears among what it heard.

    Args:
        recordings: codes `[Q, T]` that pieces are cut from; random ids of one codebook if there are none.
    """

    num_ids: int
    frames: int
    shortest_frames: int
    longest_frames: int
    recordings: Sequence[Tensor] = ()
    hearings: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.shortest_frames <= self.longest_frames < self.frames:
            raise ValueError(
                f"Pieces of {self.shortest_frames} to {self.longest_frames} frames in {self.frames} frames, but it "
                "must be 1 <= shortest_frames <= longest_frames < frames."
            )
        if self.recordings:
            require_long(self.recordings, self.longest_frames)

    @property
    def num_codebooks(self) -> int:
        """Q."""
        return len(self.recordings[0]) if self.recordings else 1

    @property
    def chance_nats(self) -> float | None:
        """The loss of a random frame that nothing is known about."""
        return None if self.recordings else math.log(self.num_ids)

    @cached_property
    def _numbered(self) -> list[Tensor]:
        return numbered(self.recordings)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch; hearings beyond `hearings` count as the last."""
        return drawn(self._row, rows, generator, of_recordings if self.recordings else of_random_frames)

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        spread = math.log(self.longest_frames / self.shortest_frames)
        length = round(self.shortest_frames * math.exp(spread * float(torch.rand((), generator=generator))))
        if self.recordings:
            piece = cut(self._numbered, length, generator)
        else:
            piece = torch.randint(self.num_ids, (1, length), generator=generator)
        place = torch.arange(self.frames)
        hearing = (place // length + 1).clamp(max=self.hearings)
        hearing[-1] = UNSCORED  # delayed codebooks have no prediction there
        return piece[:, place % length], hearing


@dataclass
class PairsTask:
    """`num_pairs` keys, each followed by its value, in random order among distractors; so `hearings` times.

    The ids are keys, values and distractors, in thirds. Scored are the values; which key comes next, and which
    distractor, nobody can know: they are the other frames.
    """

    num_ids: int = 48
    num_pairs: int = 8
    distractors: int = 8
    hearings: int = 4
    repeats: bool = True
    num_codebooks: int = 1

    def __post_init__(self) -> None:
        if self.num_ids < 3 * self.num_pairs:
            raise ValueError(
                f"num_ids={self.num_ids}, but {self.num_pairs} pairs need {3 * self.num_pairs} or more: keys, values "
                "and distractors are a third of the ids each."
            )

    @property
    def frames(self) -> int:
        """T."""
        return (2 * self.num_pairs + self.distractors) * self.hearings

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch."""
        return drawn(self._row, rows, generator, of_random_frames)

    def _row(self, generator: Generator) -> tuple[Tensor, Tensor]:
        third = self.num_ids // 3
        keys = torch.randperm(third, generator=generator)[: self.num_pairs]
        values = third + torch.randint(third, (self.num_pairs,), generator=generator)
        codes, hearing = [], []
        for number in range(1, self.hearings + 1):
            if not self.repeats:
                values = third + torch.randint(third, (self.num_pairs,), generator=generator)
            for item in torch.randperm(self.num_pairs + self.distractors, generator=generator).tolist():
                if item < self.num_pairs:
                    codes += [int(keys[item]), int(values[item])]
                    hearing += [OTHER, number]
                else:
                    codes.append(2 * third + int(torch.randint(third, (), generator=generator)))
                    hearing.append(OTHER)
        return torch.tensor([codes]), torch.tensor(hearing)

    @property
    def chance_nats(self) -> float:
        """The loss of a value that is known to be one and not which."""
        return math.log(self.num_ids // 3)


@dataclass
class NaturalTask(_OfRecordings):
    """Pieces of recordings as they are; the second half of each is scored, as other frames."""

    frames: int = 384
    hearings: int = 0

    def __post_init__(self) -> None:
        require_long(self.recordings, self.frames)

    def draw(self, rows: int, generator: Generator) -> RecallBatch:
        """A batch."""
        audio = torch.stack([self._row(generator) for _ in range(rows)])
        hearing = torch.full((self.frames,), OTHER)
        hearing[: self.frames // 2] = UNSCORED
        if self.num_codebooks > 1:
            hearing[-1] = UNSCORED
        return of_recordings(audio, hearing.repeat(rows, 1))

    def _row(self, generator: Generator) -> Tensor:
        return cut(self._numbered, self.frames, generator)


@dataclass
class SplicedTask(NaturalTask):
    """Pieces of which the second half, which is scored, comes from another recording than the first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.recordings) < 2:
            raise ValueError(f"{len(self.recordings)} recording, but a piece is spliced from two.")

    def _row(self, generator: Generator) -> Tensor:
        pair = torch.randperm(len(self.recordings), generator=generator)[:2].tolist()
        lengths = (self.frames // 2, self.frames - self.frames // 2)
        halves = zip(pair, lengths, strict=True)
        return torch.cat([cut([self._numbered[place]], length, generator) for place, length in halves], dim=1)


def shuffle_frames(recordings: Sequence[Tensor]) -> list[Tensor]:
    """Recordings `[Q, T]` of the same lengths that are filled with the frames of all of them in a random order.

    What came before says nothing there of what follows, neither of its frames nor of its speaker.
    """
    frames_QT = torch.cat(list(recordings), dim=1)
    order = torch.randperm(frames_QT.shape[1], generator=Generator().manual_seed(0))
    return list(frames_QT[:, order].split([recording.shape[1] for recording in recordings], dim=1))


def with_streams(audio_BQT: Tensor) -> Tensor:
    """All streams `[B, 1 + 2 Q, T]`: a text row of EPAD ids, Moshi's codebooks, and an absent user."""
    text = torch.zeros_like(audio_BQT[:, :1])
    return torch.cat([text, audio_BQT, torch.full_like(audio_BQT, NO_INPUT_ID)], dim=1)


def of_random_frames(audio_BQT: Tensor, hearing_BT: Tensor) -> RecallBatch:
    """A batch of no recordings."""
    return RecallBatch(with_streams(audio_BQT), hearing_BT)


def of_recordings(numbered_BRT: Tensor, hearing_BT: Tensor) -> RecallBatch:
    """A batch of pieces `[B, Q + 1, T]` whose last row says the recording."""
    return RecallBatch(with_streams(numbered_BRT[:, :-1]), hearing_BT, numbered_BRT[:, -1])


def drawn(
    row: Callable[[Generator], tuple[Tensor, Tensor]],
    rows: int,
    generator: Generator,
    batch_of: Callable[[Tensor, Tensor], RecallBatch],
) -> RecallBatch:
    """A batch of `rows` rows, each as `row` draws it: what `batch_of` takes of a row, and hearing `[T]`."""
    audio, hearing = zip(*(row(generator) for _ in range(rows)), strict=True)
    return batch_of(torch.stack(audio), torch.stack(hearing))
