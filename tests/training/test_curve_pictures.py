"""Every evaluation of long recordings in a run leaves a picture, in TensorBoard's event files too."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_moshi_ttt.training.run import prepare

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings


def test_pictures_and_numbers_of_a_run(tmp_path: Path) -> None:
    codes = str(save_codes(tmp_path / "codes", [600, 500]))
    own = dict(max_steps=3, save_strategy="no", eval_codes=codes, eval_long_context_steps=2, report_to="tensorboard")
    trainer, _ = prepare(tiny_settings(tmp_path / "run", Path(codes), resume_from_checkpoint=None, **own))
    trainer.train()
    assert [path.name for path in (tmp_path / "run" / "long_context").iterdir()] == ["step-2.png"]
    (folder,) = {path.parent for path in (tmp_path / "run").rglob("events.out.*")}
    events = EventAccumulator(str(folder)).Reload()
    assert [image.step for image in events.Images("loss_by_position")] == [2]
    numbers = set(events.Tags()["scalars"])
    expected = {"eval/librilight_frames", "train/seconds_left", "train/ttt/layer_1/write_strength", "train/audio_loss"}
    assert expected <= numbers
    assert [event.step for event in events.Scalars("train/seconds_left")] == [1, 2, 3]
    assert events.Scalars("train/seconds_left")[-1].value == 0.0
