"""A line counts as returned when its words were heard before in the same piece, and only then."""

import pytest
import torch

from hf_moshi_ttt.memory.line_tasks import LinesTask, SaidRecording
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
