"""Stages of segment lengths: each for its steps, through the data as often as they need."""

from pathlib import Path

import pytest
from datasets import load_from_disk

from hf_moshi_ttt.data.segments import LaneSampler, SegmentDataset, ShuffledSampler
from hf_moshi_ttt.training.length_stages import StagedSegments, staged_sampler
from hf_moshi_ttt.training.run import run

from ..conftest import save_codes
from ..fixtures.training_runs import outcome, tiny_settings


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "codes", [40, 21, 30])


@pytest.fixture
def segments(codes: Path) -> StagedSegments:
    """Stages of 5 and of 10 frames: 18 and 9 segments."""
    recordings = load_from_disk(str(codes))
    return StagedSegments([SegmentDataset(recordings, frames) for frames in (5, 10)])


@pytest.mark.parametrize("kind", [LaneSampler, ShuffledSampler])
def test_every_stage_has_its_steps_and_lengths(segments: StagedSegments, kind: type) -> None:
    sampler = staged_sampler(segments, lambda stage: kind(stage, 3, 7), [10, None], max_steps=14, rows=3)
    places = list(sampler)
    assert len(places) == len(sampler) == 42 and [place.stage for place in places] == [0] * 30 + [1] * 12
    expected = []
    for stage, count in zip(segments.stages, (30, 12), strict=True):
        own, given = kind(stage, 3, 7), []
        for epoch in range(9):
            own.set_epoch(epoch)
            given += list(own)
        expected += given[:count]
    assert [staged.place for staged in places] == expected
    present = [staged for staged in places if staged.place.segment is not None]
    lengths = {staged.stage: segments[staged]["codes"].shape[1] for staged in present[::-1]}
    assert lengths == {0: 5, 1: 10} and len(segments) == 27


def test_stages_that_leave_no_step_for_the_last_are_refused(segments: StagedSegments) -> None:
    with pytest.raises(ValueError, match="The stages of duration_sec before the last take 9 steps, but .* max_steps=9"):
        staged_sampler(segments, lambda stage: ShuffledSampler(stage, 3, 0), [4, 5, None], max_steps=9, rows=3)


def test_a_run_in_stages_goes_on_exactly(tmp_path: Path, codes: Path) -> None:
    """Stopped in the first stage, at its end and in the second, with memory carried along lanes."""
    mode = {
        "duration_sec": [{"duration_sec": 0.4, "steps": 4}, {"duration_sec": 0.8}], "order": "lanes",
        "config": {"ttt": {"persistent_states": True}}, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    run(tiny_settings(tmp_path / "whole", codes, **mode))
    settings = tiny_settings(tmp_path / "run", codes, **mode)
    for stop in (3, 4, 6):
        run({**settings, "stop_at_step": stop})
    run(settings)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole") and len(outcome(tmp_path / "run")[0]) == 8
    with pytest.raises(ValueError, match="duration_sec is .*'steps': 4.*, asked for 0.8"):
        run({**settings, "duration_sec": 0.8})


def test_how_a_batch_is_divided_changes_no_step_of_a_stage(tmp_path: Path, codes: Path) -> None:
    """18 segments, then 9, are no whole steps of four rows: the last step of each pass has fewer."""
    found = []
    for rows in (4, 2, 1):
        settings = tiny_settings(
            tmp_path / str(rows), codes, duration_sec=[{"duration_sec": 0.4, "steps": 6}, {"duration_sec": 0.8}],
            max_steps=10, per_device_train_batch_size=rows, gradient_accumulation_steps=4 // rows, save_strategy="no",
        )  # fmt: skip
        run(settings)
        found.append(outcome(tmp_path / str(rows))[0])
    assert found[1] == pytest.approx(found[0], rel=1e-5) and found[2] == pytest.approx(found[0], rel=1e-5)
