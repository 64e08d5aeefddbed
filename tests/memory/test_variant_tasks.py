"""What is heard again is the other form of what was heard first, at the end of its slot, and counted there."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.recall_tasks import OTHER, UNSCORED
from hf_moshi_ttt.memory.variant_tasks import RenderedRecording, Rendering, VariantPassageTask

LENGTH = 700


def make_rendered(stretch: float = 1.0, *offsets: int) -> RenderedRecording:
    """A recording whose ids are its frames' numbers, and forms whose ids are more by an offset each (1000)."""
    long = torch.arange(int(LENGTH * stretch))[None]
    forms = [Rendering(offset + long, lambda frame: int(frame * stretch)) for offset in offsets or (1000,)]
    return RenderedRecording(torch.arange(LENGTH)[None], forms)


def make_surroundings() -> list[Tensor]:
    return [torch.full((1, LENGTH), 9000)]


@pytest.mark.parametrize("stretch", [0.9, 1.0, 1.2])
def test_later_hearings_are_the_other_form(stretch: float) -> None:
    task = VariantPassageTask([make_rendered(stretch)], 10_000, hearings=4, recordings=make_surroundings())
    batch = task.draw(3, torch.Generator().manual_seed(0))
    assert batch.codes_BKT.shape == (3, 3, task.frames) and task.frames == 4 * 64
    for codes_T, hearing_T in zip(batch.codes_BKT[:, 1], batch.hearing_BT, strict=True):
        first_P = codes_T[40:64]
        start = int(first_P[0])
        assert first_P.tolist() == list(range(start, start + 24))
        again = list(range(1000 + int(start * stretch), 1000 + int((start + 24) * stretch)))
        for number in (2, 3, 4):
            end = number * 64
            assert codes_T[end - len(again) : end].tolist() == again
            assert codes_T[end - 64 : end - len(again)].eq(9000).all()
            assert hearing_T[end - len(again) + 4 : end - 1].eq(number).all()
            assert hearing_T[end - 64 : end - len(again)].eq(OTHER).all()
            assert hearing_T[end - 1] == UNSCORED
        assert hearing_T[:44].eq(UNSCORED).all() and hearing_T[44:63].eq(1).all()


def test_the_same_form_is_a_passage_that_returns() -> None:
    task = VariantPassageTask([make_rendered(1.0, 0)], 10_000)
    codes_BT = task.draw(2, torch.Generator().manual_seed(1)).codes_BKT[:, 1]
    assert codes_BT.shape == (2, 128) and torch.equal(codes_BT[:, 40:64], codes_BT[:, 104:128])


def test_draws_follow_the_seed_and_use_every_recording_and_form() -> None:
    task = VariantPassageTask([make_rendered(1.0, 1000, 2000), make_rendered(1.0, 3000)], 10_000, hearings=4)
    first, again, other = (task.draw(8, torch.Generator().manual_seed(seed)).codes_BKT for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    heard = {tuple(int(codes_T[end]) // 1000 for end in (127, 191, 255)) for codes_T in first[:, 1]}
    assert (3, 3, 3) in heard and any(len(set(row)) == 2 and set(row) == {1, 2} for row in heard)


def test_a_form_that_ends_early_is_not_cut_short() -> None:
    cut = RenderedRecording(torch.arange(LENGTH)[None], [Rendering(torch.arange(200)[None], lambda frame: frame)])
    batch = VariantPassageTask([cut], 10_000).draw(20, torch.Generator().manual_seed(0))
    assert batch.codes_BKT[:, 1, -1].max() < 200


def test_recordings_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="none is given"):
        VariantPassageTask([], 10)
    short = RenderedRecording(torch.zeros(1, 300), [Rendering(torch.zeros(1, 120), int)])
    with pytest.raises(ValueError, match="the shortest has 120 frames, but they need more than 128"):
        VariantPassageTask([short], 10)
    with pytest.raises(ValueError, match="A recording has 128 frames, but pieces of 128"):
        VariantPassageTask([make_rendered()], 10, recordings=[torch.zeros(1, 128)])
