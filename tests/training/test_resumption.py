"""Which of the three ways a run starts; what they take over is tested in test_run.py."""

from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.training.arguments import MoshiTTTTrainingArguments
from hf_moshi_ttt.training.resumption import Start, plan_start, require_same_course, save_settings, weights_of


def checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "files.json").write_text('{"config.json": 2}')
    return folder


def planned(folder: Path, **settings: Any) -> Start:
    return plan_start(MoshiTTTTrainingArguments(output_dir=str(folder / "run"), use_cpu=True, **settings))


def test_own_checkpoints_come_before_another_runs(tmp_path: Path) -> None:
    other = checkpoint(tmp_path / "other" / "checkpoint-7")
    assert planned(tmp_path) == planned(tmp_path, resume_from_checkpoint=True) == Start()
    from_other: dict[str, Any] = {"resume_from": str(other.parent), "resume_from_checkpoint": True}
    both = {"reset_optimizer": True, "reset_step": True}
    assert planned(tmp_path, **from_other) == Start(other)
    assert planned(tmp_path, **from_other, reset_optimizer=True) == Start(other, fresh_optimizer=True)
    assert planned(tmp_path, **from_other, **both) == Start()
    own = checkpoint(tmp_path / "run" / "checkpoint-3")
    for settings in (from_other, {**from_other, **both}, {"resume_from_checkpoint": str(own)}):
        assert planned(tmp_path, **settings) == Start(own)


def test_a_run_does_not_start_among_checkpoints_that_would_outrank_its_own(tmp_path: Path) -> None:
    other, own = checkpoint(tmp_path / "other" / "checkpoint-7"), checkpoint(tmp_path / "run" / "checkpoint-3")
    both = {"reset_optimizer": True, "reset_step": True}
    for settings in ({}, {"resume_from": str(other)}, {"resume_from": str(other), **both}):
        with pytest.raises(ValueError, match="run holds checkpoint-3 of another run. Continue it"):
            planned(tmp_path, **settings)
    with pytest.raises(ValueError, match="run holds checkpoint-3 of another run. Continue it"):
        planned(tmp_path, resume_from_checkpoint=str(other))
    later = checkpoint(tmp_path / "run" / "checkpoint-5")
    with pytest.raises(ValueError, match="run holds checkpoint-5, which is later than checkpoint-3 and would be taken"):
        planned(tmp_path, resume_from=str(own))
    (later / "files.json").unlink()
    assert planned(tmp_path, resume_from=str(own)) == Start(own)


def test_only_a_finished_run_with_its_final_model_needs_no_training(tmp_path: Path) -> None:
    last = checkpoint(tmp_path / "run" / "checkpoint-3")
    save_settings(last, {}, {})
    steps = last / "trainer_state.json"
    steps.write_text('{"global_step": 3, "max_steps": 3}')
    with pytest.raises(ValueError, match="run holds checkpoint-3 of another run"):
        planned(tmp_path)
    (tmp_path / "run" / "config.json").write_text("{}")
    assert planned(tmp_path) == Start(last, is_finished=True)
    assert "is the end of this run, nothing is trained. To train it again" in planned(tmp_path).describe()
    assert planned(tmp_path, resume_from_checkpoint=True) == Start(last)
    steps.write_text('{"global_step": 3, "max_steps": 4}')
    with pytest.raises(ValueError, match="run holds checkpoint-3 of another run"):
        planned(tmp_path)


def test_a_finished_run_is_another_where_any_setting_of_its_course_differs(tmp_path: Path) -> None:
    end = Start(checkpoint(tmp_path / "run" / "checkpoint-3"), is_finished=True)
    course = {"max_steps": 3, "num_train_epochs": 1, "world_size": 1, "weights_from": None, "preset": "tiny"}
    save_settings(end.checkpoint, course, {"hidden_size": 8})
    require_same_course(end, course, {"hidden_size": 8})
    with pytest.raises(ValueError, match=r"of another run \(config.hidden_size is 8, asked for 9\). Continue it"):
        require_same_course(end, course, {"hidden_size": 9})
    for key in course:
        with pytest.raises(ValueError, match=rf"run holds checkpoint-3 of another run \({key} is .*, asked for 'x'\)"):
            require_same_course(end, {**course, key: "x"}, {"hidden_size": 8})


def test_weights_are_those_of_the_final_model_or_the_newest_checkpoint(tmp_path: Path) -> None:
    assert weights_of("user/model") == "user/model"
    newest = checkpoint(tmp_path / "checkpoint-9")
    assert weights_of(str(tmp_path)) == str(newest)
    (tmp_path / "config.json").write_text("{}")
    assert weights_of(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(("step", "max_steps", "is_older"), [(9, 9, False), (8, 8, True), (9, 20, True)])
def test_weights_are_not_those_of_a_final_model_that_the_run_has_left_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int, max_steps: int, is_older: bool
) -> None:
    """Killed after its end at step 8, or stopped: the state in the run's folder is of the last session that ended."""
    newest = checkpoint(tmp_path / "checkpoint-9")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "trainer_state.json").write_text(f'{{"global_step": {step}, "max_steps": {max_steps}}}')
    assert weights_of(str(tmp_path)) == str(newest if is_older else tmp_path)
    assert ("the final model is older than checkpoint-9, whose weights are taken" in caplog.text) == is_older


def test_a_course_is_compared_key_by_key(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1")
    keys = "duration_sec overlap_sec data_fingerprint seed rows_per_step bf16 world_size per_device_train_batch_size"
    optimizer = (
        "learning_rate ttt_lr_multiplier gate_lr_multiplier lr_scheduler_type lr_scheduler_kwargs warmup_steps "
        "inner_lr_warmup_steps weight_decay optim optim_args adam_beta1 adam_beta2 adam_epsilon max_grad_norm"
    )
    course = dict.fromkeys(
        f"{keys} {optimizer} carry_window state_reset_probability max_steps num_train_epochs".split(), 1
    )
    course |= {"order": "shuffled", "trainable": "full"}
    save_settings(folder, course, {"hidden_size": 8})
    require_same_course(Start(folder), course, {"hidden_size": 8})
    require_same_course(Start(folder), {**course, "world_size": 2, "max_steps": 9}, {"hidden_size": 8})
    for key in optimizer.split():
        require_same_course(Start(folder, fresh_optimizer=True), {**course, key: 5}, {"hidden_size": 8})
        with pytest.raises(ValueError, match=f"checkpoint-1: {key} is 1, asked for 5. A run continues only"):
            require_same_course(Start(folder), {**course, key: 5}, {"hidden_size": 8})
    with pytest.raises(ValueError, match="config.hidden_size is 8, asked for 9; config.new is None, asked for 1"):
        require_same_course(Start(folder), course, {"hidden_size": 9, "new": 1})
    lanes = {**course, "order": "lanes"}
    save_settings(folder, lanes, {})
    with pytest.raises(ValueError, match="world_size is 1, asked for 2"):
        require_same_course(Start(folder), {**lanes, "world_size": 2}, {})
