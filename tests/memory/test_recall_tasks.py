"""What returns does return, nothing else does, and every frame is counted where it belongs."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.recall_tasks import (
    OTHER,
    UNSCORED,
    LoopTask,
    MotifTask,
    NaturalTask,
    PairsTask,
    PassageTask,
    RecallBatch,
    ScatteredPassageTask,
    SplicedTask,
    shuffle_frames,
)

ROWS = 3


def recordings(num_ids: int = 1000, lengths: tuple[int, ...] = (700, 900)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(num_ids, (1, length), generator=generator) for length in lengths]


def make_tasks() -> dict[str, Any]:
    return {
        "motif": MotifTask(),
        "motif of 8 codebooks": MotifTask(num_codebooks=8),
        "passage": PassageTask(recordings(), 1000),
        "scattered": ScatteredPassageTask(recordings(), 1000),
        "loop of random frames": LoopTask(10, 128, 6, 40),
        "loop of a recording": LoopTask(1000, 256, 12, 80, recordings()),
        "pairs": PairsTask(),
        "natural": NaturalTask(recordings(), 1000),
        "spliced": SplicedTask(recordings(), 1000),
    }


def drawn(task: Any, seed: int = 0) -> RecallBatch:
    return task.draw(ROWS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", make_tasks())
def test_batches_have_their_shapes_and_follow_from_the_seed(name: str) -> None:
    task = make_tasks()[name]
    batch, again, other = drawn(task), drawn(task), drawn(task, seed=1)
    assert batch.codes_BKT.shape == (ROWS, 1 + 2 * task.num_codebooks, task.frames)
    assert batch.hearing_BT.shape == (ROWS, task.frames)
    assert torch.equal(batch.codes_BKT, again.codes_BKT) and torch.equal(batch.hearing_BT, again.hearing_BT)
    assert not torch.equal(batch.codes_BKT, other.codes_BKT)
    own = batch.codes_BKT[:, 1 : 1 + task.num_codebooks]
    assert own.min() >= 0 and own.max() < task.num_ids
    assert set(batch.hearing_BT.unique().tolist()) - {OTHER, UNSCORED} == set(range(1, task.hearings + 1))


@pytest.mark.parametrize("source", [(), recordings()])
def test_a_loop_returns_at_distances_that_differ_between_rows(source: list[Tensor]) -> None:
    task = LoopTask(100_000, 200, 5, 40, source)
    batch, lengths = task.draw(60, torch.Generator().manual_seed(0)), []
    for codes_T, hearing_T in zip(batch.codes_BKT[:, 1], batch.hearing_BT, strict=True):
        length = int((hearing_T == 1).sum())
        assert torch.equal(codes_T[length:], codes_T[:-length])
        assert hearing_T[:-1].tolist() == [min(4, place // length + 1) for place in range(199)]
        assert hearing_T[-1] == UNSCORED
        lengths.append(length)
    assert task.chance_nats == (None if source else pytest.approx(math.log(100_000)))
    assert min(lengths) < 7 and max(lengths) > 33 and 13 <= sorted(lengths)[30] <= 16  # log-uniform: median 14.1


def test_loops_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="Pieces of 5 to 200 frames in 200 frames, but it must be 1 <= shortest"):
        LoopTask(10, 200, 5, 200)
    with pytest.raises(ValueError, match="A recording has 700 frames, but pieces of 750 frames"):
        LoopTask(10, 800, 5, 750, recordings())


def test_a_motif_is_heard_again_and_again() -> None:
    batch = drawn(MotifTask(num_ids=10, motif_frames=5, hearings=3))
    first, second, third = batch.codes_BKT.split(5, dim=2)
    assert torch.equal(first, second) and torch.equal(first, third)
    assert batch.hearing_BT[0].tolist() == [1] * 5 + [2] * 5 + [3] * 5
    assert (batch.codes_BKT[:, 0] == 0).all() and (batch.codes_BKT[:, 2] == -1).all()


def test_with_8_codebooks_the_text_returns_too_and_the_user_is_silent() -> None:
    batch = drawn(MotifTask(num_codebooks=8, motif_frames=6))
    text, own, user = batch.codes_BKT.split([1, 8, 8], dim=1)
    assert torch.equal(text[..., :6], text[..., 6:12]) and len(text.unique()) > 10
    assert torch.equal(own[..., :6], own[..., 6:12]) and not torch.equal(own[:, 0], own[:, 1])
    assert (user == 0).all()
    assert batch.hearing_BT[0, -2:].tolist() == [4, UNSCORED]  # delayed codebooks have no prediction there


def test_the_control_repeats_nothing() -> None:
    batch = drawn(MotifTask(num_ids=1000, repeats=False))
    first, second, *_ = batch.codes_BKT[:, 1].split(24, dim=1)
    assert (first == second).float().mean() < 0.05


def test_a_passage_returns_in_another_recording() -> None:
    source = recordings()
    task = PassageTask(source, 1000, passage_frames=6, gap_frames=4, hearings=3, skip_frames=2)
    batch = drawn(task)
    audio = batch.codes_BKT[:, 1]
    passages = [audio[:, start : start + 6] for start in (4, 14, 24)]
    assert torch.equal(passages[0], passages[1]) and torch.equal(passages[0], passages[2])
    gaps = torch.cat([audio[:, start : start + 4] for start in (0, 10, 20)], dim=1)
    whole = torch.cat(source, dim=1)[0].unfold(0, 12, 1)
    assert all((whole == row).all(1).any() for row in gaps)  # twelve frames in a row of one recording
    unscored = UNSCORED
    expected = [unscored] * 6 + [1] * 3 + [unscored] + [OTHER] * 4 + [unscored] * 2 + [2] * 3 + [unscored]
    assert batch.hearing_BT[0, :20].tolist() == expected
    other = drawn(PassageTask(source, 1000, passage_frames=6, gap_frames=4, hearings=2, repeats=False)).codes_BKT[:, 1]
    assert not torch.equal(other[:, 4:10], other[:, 14:20])


def test_scattered_passages_return_at_many_distances() -> None:
    task, distances = ScatteredPassageTask(recordings(), 1000, passage_frames=8, frames=512, hearings=2), set()
    batch = task.draw(20, torch.Generator().manual_seed(0))
    for audio, hearing in zip(batch.codes_BKT[:, 1], batch.hearing_BT, strict=True):
        starts = [t for t in range(1, 512) if hearing[t] == UNSCORED and hearing[t - 1] == OTHER]
        assert all(torch.equal(audio[s : s + 8], audio[starts[0] : starts[0] + 8]) for s in starts)
        scored = [int(hearing[start + 4]) for start in starts]
        assert scored == [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2][: len(starts)]
        distances |= {later - start - 8 for start, later in zip(starts[:-1], starts[1:], strict=True)}
    assert min(distances) >= 8 and max(distances) <= 362 and len(distances) > 20


def test_keys_return_with_their_values_among_distractors() -> None:
    task = PairsTask(num_ids=30, num_pairs=4, distractors=5, hearings=3)
    batch = drawn(task)
    for audio, hearing in zip(batch.codes_BKT[:, 1].tolist(), batch.hearing_BT.tolist(), strict=True):
        told: dict[int, int] = {}
        for t, number in enumerate(hearing):
            if number == OTHER:
                assert audio[t] < 10 or audio[t] >= 20  # keys and distractors
                continue
            assert audio[t - 1] < 10 and 10 <= audio[t] < 20
            assert told.setdefault(audio[t - 1], audio[t]) == audio[t]
        assert [hearing.count(number) for number in (1, 2, 3)] == [4, 4, 4] and len(told) == 4
    changing = drawn(PairsTask(num_ids=300, num_pairs=4, distractors=0, hearings=2, repeats=False))
    values = [row[h > 0] for row, h in zip(changing.codes_BKT[:, 1], changing.hearing_BT, strict=True)]
    assert all(set(row[:4].tolist()) != set(row[4:].tolist()) for row in values)


def test_nothing_is_planted_in_recordings_as_they_are() -> None:
    source = recordings()
    batch = drawn(NaturalTask(source, 1000, frames=100))
    whole = torch.cat(source, dim=1)[0].unfold(0, 100, 1)
    assert all((whole == row).all(1).any() for row in batch.codes_BKT[:, 1])
    assert batch.hearing_BT[0].tolist() == [UNSCORED] * 50 + [OTHER] * 50


def test_the_second_half_of_a_spliced_piece_is_another_recordings() -> None:
    source = [torch.arange(0, 700)[None], torch.arange(1000, 1900)[None]]
    batch = drawn(SplicedTask(source, 2000, frames=100))
    steps = batch.codes_BKT[:, 1].diff(dim=1)
    assert (steps[:, :49] == 1).all() and (steps[:, 50:] == 1).all() and (steps[:, 49].abs() > 200).all()
    assert batch.hearing_BT[0].tolist() == [UNSCORED] * 50 + [OTHER] * 50


def test_shuffled_recordings_hold_the_same_frames_in_another_order() -> None:
    source = [torch.stack([torch.arange(start, start + 300)] * 2) for start in (0, 300)]
    shuffled = shuffle_frames(source)
    assert [each.shape for each in shuffled] == [(2, 300), (2, 300)]
    assert torch.equal(torch.cat(shuffled, dim=1)[0].sort().values, torch.arange(600))
    assert all(torch.equal(each[0], each[1]) for each in shuffled)  # whole frames
    assert (shuffled[0][0] >= 300).float().mean() > 0.3 and (shuffled[0][0].diff() == 1).float().mean() < 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairsTask(num_ids=20, num_pairs=8), "num_ids=20, but 8 pairs need 24 or more"),
        (lambda: PassageTask([], 64), "No recording: pieces of 160 frames are cut from at least one"),
        (lambda: NaturalTask(recordings(lengths=(900, 300)), 64), "has 300 frames, but pieces of 384 frames are cut"),
        (lambda: SplicedTask(recordings(lengths=(900,)), 64), "1 recording, but a piece is spliced from two"),
        (lambda: ScatteredPassageTask(recordings(lengths=(512,)), 64), "leave out what is not longer than 512 frames"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
