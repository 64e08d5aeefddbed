"""Every frame of a drawn batch tells the recording that it was cut from."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.cuts import cut, numbered, require_long
from hf_moshi_ttt.memory.line_tasks import LinesTask, LongLinesTask, SaidRecording
from hf_moshi_ttt.memory.recall_tasks import (
    LoopTask,
    MotifTask,
    NaturalTask,
    PairsTask,
    PassageTask,
    ScatteredPassageTask,
    SplicedTask,
)
from hf_moshi_ttt.memory.variant_tasks import RenderedRecording, Rendering, VariantPassageTask

FRAMES = 900
RECORDINGS = [torch.arange(FRAMES)[None].repeat(2, 1) % 7 + 100 * number for number in range(3)]  # ids tell the number
SAYING_T = torch.where(torch.arange(FRAMES) % 10 < 8, torch.arange(FRAMES) // 10, -1)
TEXTS = torch.randint(20, (FRAMES // 10,), generator=torch.Generator().manual_seed(0))
SAID = [SaidRecording(codes_QT, SAYING_T, TEXTS) for codes_QT in RECORDINGS]
RENDERED = [RenderedRecording(codes_QT, [Rendering(codes_QT + 7, lambda frame: frame)]) for codes_QT in RECORDINGS]
TASKS: dict[str, Any] = {
    "passage": PassageTask(RECORDINGS, 300),
    "something else each time": PassageTask(RECORDINGS, 300, repeats=False),
    "scattered": ScatteredPassageTask(RECORDINGS, 300),
    "loop": LoopTask(300, 128, 6, 40, RECORDINGS),
    "natural": NaturalTask(RECORDINGS, 300),
    "spliced": SplicedTask(RECORDINGS, 300),
    "lines": LinesTask(SAID, 300),
    "after the same": LongLinesTask(SAID, 300, piece_frames=120, before_frames=120),
    "after another": LongLinesTask(SAID, 300, piece_frames=120, before_frames=120, before="other"),
    "variants": VariantPassageTask(RENDERED, 300),
    "variants among others": VariantPassageTask(RENDERED, 300, recordings=RECORDINGS[::-1]),
}


def draw(task: Any) -> Any:
    return task.draw(20, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", TASKS)
def test_frames_tell_their_recording(name: str) -> None:
    batch = draw(TASKS[name])
    own_BQT = batch.codes_BKT[:, 1:3]
    assert batch.codes_BKT.shape[1] == 5 and batch.recording_BT.shape == batch.hearing_BT.shape
    expected_BT: Tensor = own_BQT[:, 0] // 100
    if name == "variants among others":  # there the surroundings are numbered the other way round
        is_passage = batch.recording_BT == expected_BT
        expected_BT = expected_BT.where(is_passage, 2 - expected_BT)
        assert is_passage[batch.hearing_BT > 0].all() and not is_passage[batch.hearing_BT == 0].all()
    assert torch.equal(batch.recording_BT, expected_BT)
    assert set(batch.recording_BT.unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("task", [MotifTask(), MotifTask(num_codebooks=8), PairsTask(), LoopTask(10, 128, 6, 40)])
def test_random_frames_come_from_no_recording(task: Any) -> None:
    assert draw(task).recording_BT is None


def test_pieces_lie_in_their_recording() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        piece = cut(numbered(RECORDINGS), 30, generator)
        number = int(piece[-1, 0])
        assert piece.shape == (3, 30) and piece[-1].eq(number).all()
        assert any(torch.equal(piece[:-1], RECORDINGS[number][:, start : start + 30]) for start in range(7))


def test_too_short_recordings_are_refused() -> None:
    require_long(RECORDINGS, FRAMES - 1)
    with pytest.raises(ValueError, match=f"A recording has {FRAMES} frames, but pieces of {FRAMES} frames are cut"):
        require_long(RECORDINGS, FRAMES)
    with pytest.raises(ValueError, match="No recording: pieces of 5 frames are cut from at least one"):
        require_long([], 5)
