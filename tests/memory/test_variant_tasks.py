"""What is heard again is the other form of what was heard first, at the end of its slot, and counted there."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.recall_tasks import OTHER, UNSCORED
from hf_moshi_ttt.memory.variant_tasks import Rendering, VariantPassageTask

LENGTH = 700


def make_rendering(stretch: float = 1.0, offset: int = 1000) -> Rendering:
    """A recording whose ids are its frames' numbers, and a form whose ids are `offset` more."""
    return Rendering(
        torch.arange(LENGTH)[None],
        offset + torch.arange(int(LENGTH * stretch))[None],
        lambda frame: int(frame * stretch),
    )


def make_surroundings() -> list[Tensor]:
    return [torch.full((1, LENGTH), 9000)]


@pytest.mark.parametrize("stretch", [0.9, 1.0, 1.2])
def test_later_hearings_are_the_other_form(stretch: float) -> None:
    task = VariantPassageTask([make_rendering(stretch)], 10_000, recordings=make_surroundings())
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
    task = VariantPassageTask([make_rendering(offset=0)], 10_000)
    codes_BT = task.draw(2, torch.Generator().manual_seed(1)).codes_BKT[:, 1]
    assert torch.equal(codes_BT[:, 40:64], codes_BT[:, 104:128]) and torch.equal(codes_BT[:, 40:64], codes_BT[:, 232:])


def test_draws_follow_the_seed_and_use_every_rendering() -> None:
    task = VariantPassageTask([make_rendering(offset=1000), make_rendering(offset=2000)], 10_000)
    first, again, other = (task.draw(8, torch.Generator().manual_seed(seed)).codes_BKT for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert {int(code) // 1000 for code in first[:, 1, -1]} == {1, 2}


def test_a_form_that_ends_early_is_not_cut_short() -> None:
    cut = Rendering(torch.arange(LENGTH)[None], torch.arange(200)[None], lambda frame: frame)
    batch = VariantPassageTask([cut], 10_000).draw(20, torch.Generator().manual_seed(0))
    assert batch.codes_BKT[:, 1, -1].max() < 200


def test_recordings_that_are_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="none is given"):
        VariantPassageTask([], 10)
    with pytest.raises(ValueError, match="the shortest has 120 frames, but they need more than 128"):
        VariantPassageTask([Rendering(torch.zeros(1, 300), torch.zeros(1, 120), int)], 10)
    with pytest.raises(ValueError, match="A recording has 256 frames, but pieces of 256"):
        VariantPassageTask([make_rendering()], 10, recordings=[torch.zeros(1, 256)])
