"""A line counts as returned when its words were heard before in the same piece, and only then."""

import pytest
import torch

from hf_moshi_ttt.memory.line_tasks import LinesTask, LongLinesTask, SaidRecording
from hf_moshi_ttt.memory.recall_tasks import OTHER, UNSCORED

LINE, PAUSE = 10, 3
TEXTS = torch.tensor([0, 1, 0, 2, 1, 0] * 20)


def make_recording() -> SaidRecording:
    """Lines of 10 frames with pauses of 3; ids are the frames' numbers."""
    saying_T = torch.cat([torch.tensor([number] * LINE + [-1] * PAUSE) for number in range(len(TEXTS))])
    return SaidRecording(torch.arange(len(saying_T))[None], saying_T, TEXTS)


def test_hearings_are_those_of_the_piece() -> None:
    recording = make_recording()
    task = LinesTask([recording], 10_000, frames=60)
    batch = task.draw(30, torch.Generator().manual_seed(0))
    assert batch.codes_BKT.shape == (30, 3, 60)
    for codes_T, hearing_T in zip(batch.codes_BKT[:, 1], batch.hearing_BT, strict=True):
        first = int(codes_T[0])
        assert codes_T.tolist() == list(range(first, first + 60))
        heard: set[int] = set()
        seen_frames: dict[int, int] = {}
        for place, frame in enumerate(range(first, first + 59)):
            saying = int(recording.saying_T[frame])
            if saying < 0:
                assert hearing_T[place] == OTHER
                continue
            before = {int(TEXTS[other]) for other in range(first // (LINE + PAUSE), saying)
                      if (other * (LINE + PAUSE) + LINE) > first}  # fmt: skip
            seen_frames[saying] = seen_frames.get(saying, 0) + 1
            expected = 2 if int(TEXTS[saying]) in before else 1
            assert hearing_T[place] == (UNSCORED if seen_frames[saying] <= 4 else expected)
            heard.add(expected)
        assert hearing_T[-1] == UNSCORED and heard == {1, 2}


def test_draws_follow_the_seed_and_short_recordings_are_refused() -> None:
    task = LinesTask([make_recording()], 10_000, frames=60)
    first, again = (task.draw(2, torch.Generator().manual_seed(3)).codes_BKT for _ in range(2))
    assert torch.equal(first, again) and task.num_codebooks == 1
    with pytest.raises(ValueError, match="A recording has 1560 frames, but pieces of 2000"):
        LinesTask([make_recording()], 10_000, frames=2000)
    nothing = SaidRecording(torch.arange(1560)[None], torch.arange(1560) // 13, torch.arange(120))
    with pytest.raises(ValueError, match="In 1000 pieces of 60 frames no line returned"):
        LinesTask([nothing], 10_000, frames=60).draw(1, torch.Generator().manual_seed(0))


def test_long_pieces_score_the_same_frames_whatever_was_heard_before() -> None:
    recording = make_recording()
    other = SaidRecording(recording.codes_QT + 5000, recording.saying_T, recording.text_of_saying)
    made = {
        before: LongLinesTask([recording, other], 10_000, piece_frames=40, before_frames=52, before=before)
        for before in ("own", "other", "nothing")
    }
    batches = {name: task.draw(20, torch.Generator().manual_seed(1)) for name, task in made.items()}
    assert [task.frames for task in made.values()] == [92, 92, 40]
    for name, batch in batches.items():
        assert batch.codes_BKT.shape[2] == batch.hearing_BT.shape[1] == made[name].frames
        assert torch.equal(batch.codes_BKT[:, 1, -40:], batches["own"].codes_BKT[:, 1, -40:])
        assert torch.equal(batch.hearing_BT[:, -40:], batches["own"].hearing_BT[:, -40:])
        assert (batch.hearing_BT[:, :-40] == UNSCORED).all()
    own, another = (batches[name].codes_BKT[:, 1, :52] for name in ("own", "other"))
    assert torch.equal(own.diff(dim=1), torch.ones_like(own[:, 1:])) and not torch.equal(own, another)
    assert ((own >= 5000).all(1) != (another >= 5000).all(1)).all()  # never of the same recording


def test_hearing_3_was_said_only_before_the_piece() -> None:
    recording = make_recording()
    task = LongLinesTask([recording, recording], 10_000, piece_frames=40, before_frames=52, skip_frames=0)
    batch, seen = task.draw(40, torch.Generator().manual_seed(2)), set()
    for codes_T, hearing_T in zip(batch.codes_BKT[:, 1].tolist(), batch.hearing_BT.tolist(), strict=True):
        for place in range(52, 91):
            saying = int(recording.saying_T[codes_T[place]])
            if saying < 0:
                assert hearing_T[place] == OTHER
                continue
            start = next(i for i, code in enumerate(codes_T) if int(recording.saying_T[code]) == saying)
            texts = [int(recording.saying_T[code]) for code in codes_T[:start]]
            starts = {number: texts.index(number) for number in texts if number >= 0}
            before = [at for number, at in starts.items() if TEXTS[number] == TEXTS[saying]]
            assert hearing_T[place] == (1 if not before else 2 if max(before) >= 52 else 3)
            seen.add(hearing_T[place])
    assert seen == {1, 2, 3}


def test_long_pieces_refuse_what_they_cannot_do() -> None:
    with pytest.raises(ValueError, match="before='all', but it must be own, other or nothing"):
        LongLinesTask([make_recording()] * 2, 10_000, before="all")
    with pytest.raises(ValueError, match="1 recording, but what is heard before is of another one"):
        LongLinesTask([make_recording()], 10_000)
    with pytest.raises(ValueError, match="A recording has 1560 frames, but pieces of 1600"):
        LongLinesTask([make_recording()] * 2, 10_000, piece_frames=100, before_frames=1500)
