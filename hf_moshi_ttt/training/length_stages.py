"""Training in stages of growing segments: first many short ones, then fewer and longer ones.

All stages together are one pass of the Trainer, as long as the run. Within a stage the data is repeated as often as
its steps need, each time in another order; every stage begins with its own first order, and lanes are reset.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Sampler

from ..data.segments import Place, SegmentDataset


class StagedPlace(NamedTuple):
    """A place in the segments of a stage."""

    stage: int
    place: Place


class StagedSegments(torch.utils.data.Dataset):
    """The segments of every stage, of the same recordings."""

    def __init__(self, stages: Sequence[SegmentDataset]) -> None:
        self.stages = stages

    def __len__(self) -> int:
        return sum(map(len, self.stages))

    def __getitem__(self, staged: StagedPlace) -> dict[str, Any]:
        return self.stages[staged.stage][staged.place]


class StagedSampler(Sampler[StagedPlace]):
    """The places of each stage's own sampler, one stage after the other.

    Args:
        samplers: one a stage; their lengths are multiples of the rows of a batch.
        places: how many places each stage gives.
    """

    def __init__(self, samplers: Sequence[Any], places: Sequence[int]) -> None:
        self.samplers, self.places = samplers, places

    def set_epoch(self, epoch: int) -> None:
        """The run is one pass, so there is nothing to choose."""

    def __len__(self) -> int:
        return sum(self.places)

    def __iter__(self) -> Iterator[StagedPlace]:
        for stage, (sampler, count) in enumerate(zip(self.samplers, self.places, strict=True)):
            for place in _repeated(sampler, count):
                yield StagedPlace(stage, place)


def _repeated(sampler: Any, count: int) -> Iterator[Place]:
    given = epoch = 0
    while given < count:
        sampler.set_epoch(epoch)
        for place in sampler:
            if given == count:
                return
            yield place
            given += 1
        epoch += 1


def staged_sampler(
    segments: StagedSegments,
    make: Callable[[SegmentDataset], Any],
    steps: Sequence[int | None],
    max_steps: int,
    rows: int,
) -> StagedSampler:
    """The sampler of a run.

    Args:
        make: the sampler of one stage.
        steps: of each stage; None for the last, which takes what is left.
        max_steps: of the run.
        rows: places in a step, over all processes and accumulation steps.

    Raises:
        ValueError: the stages before the last take all steps of the run.
    """
    before = sum(count for count in steps if count is not None)
    if before >= max_steps:
        raise ValueError(
            f"The stages of duration_sec before the last take {before} steps, but the run has max_steps={max_steps}."
        )
    counts = [count if count is not None else max_steps - before for count in steps]
    return StagedSampler([make(stage) for stage in segments.stages], [count * rows for count in counts])
