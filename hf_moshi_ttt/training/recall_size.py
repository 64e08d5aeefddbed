"""The tasks of `hf-moshi-ttt recall` by name, and the sizes and the schedule of their models."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from ..settings import typed_values

SPEECH_TASKS = ("refrain", "distance", "variants", "natural", "lines", "shuffled")
TASKS = ("motif", "motif8", "control", "loops", "pairs", *SPEECH_TASKS)
LAST_SEED = 2**32 - 1  # of numpy
MOST_TEST_ROWS = 1600  # more would draw from the seeds of training
_TASKS_OF = {"recall_first": ("lines",), "lanes": ("lines", "natural")}  # that read a key of RecallSize


@dataclass(frozen=True)
class RecallSize:
    """Sizes of a task's models and their schedule of training.

    Args:
        window_frames: what a layer's attention sees, the frame itself included.
        piece_frames: length of the pieces of recordings that are taken as they are.
        recall_first: of `lines`, whether two thirds of the steps are on passages that return, at one distance and then
            at any, before the recordings as they are.
        lanes: of `lines` and `natural`, whether recordings are read from start to end, piece by piece, so that an arm
            with `persistent_states=true` carries its memory from piece to piece; else pieces are drawn at random.
        last_rate: learning rate at the end of the cosine, in units of `learning_rate`.
        test_rows: sequences of each test.
    """

    steps: int = 300
    hidden_size: int = 64
    num_attention_heads: int = 2
    num_hidden_layers: int = 2
    window_frames: int = 8
    piece_frames: int = 384
    recall_first: bool = False
    lanes: bool = False
    batch_size: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 50
    last_rate: float = 0.0
    test_rows: int = 32

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "test_rows": 1, "window_frames": 1, "piece_frames": 2, "warmup_steps": 0}
        for key, bound in least.items():
            self._require(key, getattr(self, key) >= bound, f"{bound} or more")
        self._require("test_rows", self.test_rows <= MOST_TEST_ROWS, f"at most {MOST_TEST_ROWS}")
        self._require("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "a number, 0 or more")
        self._require("last_rate", 0 <= self.last_rate <= 1, "from 0 to 1")

    def _require(self, key: str, is_met: bool, allowed: str) -> None:
        if not is_met:
            raise ValueError(f"{key}={getattr(self, key)!r}, but it must be {allowed}.")

    def changed(self, changes: dict[str, Any]) -> "RecallSize":
        """With other values.

        Raises:
            ValueError: a key that it has not, or a value of another type or out of bounds.
        """
        known = {field.name: type(getattr(self, field.name)) for field in fields(self)}
        values = {**changes, **typed_values(RecallSize, {key: changes[key] for key in changes if key in known})}
        for key, value in values.items():
            if key not in known or not isinstance(value, (int, float) if known[key] is float else known[key]):
                kinds = ", ".join(f"{name} ({kind.__name__})" for name, kind in known.items())
                raise ValueError(f"{key}={value!r}, but what can be set is: {kinds}.")
        return replace(self, **values)


_SPEECH_SIZE = RecallSize(
    steps=600, hidden_size=96, num_attention_heads=4, learning_rate=2e-3, weight_decay=0.05, warmup_steps=30,
    last_rate=0.1, test_rows=64,
)  # fmt: skip
_SIZES = {
    "motif": RecallSize(),
    "control": RecallSize(),
    "motif8": RecallSize(hidden_size=96),
    "loops": RecallSize(),
    "pairs": RecallSize(),
    "refrain": _SPEECH_SIZE,
    "distance": _SPEECH_SIZE,
    "variants": _SPEECH_SIZE,
    "natural": replace(_SPEECH_SIZE, steps=400, test_rows=128),
    "lines": replace(_SPEECH_SIZE, steps=400, test_rows=128),
    "shuffled": replace(_SPEECH_SIZE, steps=150, test_rows=128),
}


def size_of(task: str, changes: dict[str, Any]) -> RecallSize:
    """The size of a task's models with other values.

    Raises:
        ValueError: an unknown task or key, a key of other tasks, or a value of another type or out of bounds.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r}, but the tasks are {', '.join(TASKS)}.")
    size = _SIZES[task].changed(changes)
    for key, tasks in _TASKS_OF.items():
        if getattr(size, key) and task not in tasks:
            raise ValueError(f"{key}=True of task={task!r}, but only {' and '.join(tasks)} can be trained so.")
    return size
