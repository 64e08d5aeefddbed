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
    with pytest.raises(ValueError, match="run holds checkpoint-3 of another run"):
        planned(tmp_path, resume_from=str(other), **both)


def test_weights_are_those_of_the_final_model_or_the_newest_checkpoint(tmp_path: Path) -> None:
    assert weights_of("user/model") == "user/model"
    newest = checkpoint(tmp_path / "checkpoint-9")
    assert weights_of(str(tmp_path)) == str(newest)
    (tmp_path / "config.json").write_text("{}")
    assert weights_of(str(tmp_path)) == str(tmp_path)


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
