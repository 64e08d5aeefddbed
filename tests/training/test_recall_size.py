"""Sizes of a task's models: what is given replaces the task's own, and what cannot be trained is refused by name."""

from typing import Any

import pytest

from hf_moshi_ttt.training.recall_size import TASKS, RecallSize, size_of


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_a_size_of_its_own_that_can_be_changed(task: str) -> None:
    assert size_of(task, {"steps": 7, "learning_rate": 1}).steps == 7
    assert size_of(task, {}).hidden_size == {"motif8": 96}.get(task, 64 if size_of(task, {}).test_rows == 32 else 96)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("tune", {}, "task='tune', but the tasks are motif, motif8"),
        ("motif", {"lanes": True}, "lanes=True of task='motif', but only lines and natural can"),
        ("motif", {"step": 3}, r"step=3, but what can be set is: steps \(int\)"),
        ("motif", {"learning_rate": "fast"}, "learning_rate='fast', but it must be a number"),
        ("motif", {"steps": True}, "steps=true, but it must be a number"),
        ("motif", {"steps": None}, "steps=None, but what can be set is"),
        ("motif", {"steps": 0}, "steps=0, but it must be 1 or more"),
        ("motif", {"batch_size": 0}, "batch_size=0, but it must be 1 or more"),
        ("motif", {"test_rows": 0}, "test_rows=0, but it must be 1 or more"),
        ("motif", {"test_rows": 1601}, "test_rows=1601, but it must be at most 1600"),
        ("motif", {"window_frames": 0}, "window_frames=0, but it must be 1 or more"),
        ("motif", {"piece_frames": 1}, "piece_frames=1, but it must be 2 or more"),
        ("motif", {"warmup_steps": -1}, "warmup_steps=-1, but it must be 0 or more"),
        ("motif", {"learning_rate": float("nan")}, "learning_rate=nan, but it must be a number above 0"),
        ("motif", {"learning_rate": -1.0}, "learning_rate=-1.0, but it must be a number above 0"),
        ("motif", {"weight_decay": -0.1}, "weight_decay=-0.1, but it must be a number, 0 or more"),
        ("motif", {"last_rate": 2.0}, "last_rate=2.0, but it must be from 0 to 1"),
    ],
)
def test_what_cannot_be_trained_is_refused(task: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        size_of(task, changes)


def test_whole_numbers_may_be_written_as_others() -> None:
    assert RecallSize().changed({"steps": 3e2, "learning_rate": 1}) == RecallSize(steps=300, learning_rate=1)
