"""The three ways to start from a checkpoint, and what each requires.

| way      | settings                                                    | taken over                           |
| -------- | ----------------------------------------------------------- | ------------------------------------ |
| continue | `resume_from_checkpoint: true` or a path, or `resume_from`  | everything: equal to never stopping  |
| transfer | `resume_from`, `reset_optimizer: true`, `reset_step: true`  | weights, for other data or schedules |
| finetune | the same, with keys of `config` that change                 | weights, see `config_changes.py`     |

`reset_optimizer` alone keeps step, schedule and data position, and begins with fresh moments. `resume_from` together
with `resume_from_checkpoint: true` counts only while `output_dir` holds no checkpoint, so the same command starts a run
and continues it. Without it, an `output_dir` with checkpoints is refused, but for a run that is finished: the same
settings again find nothing to do.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from .arguments import DataArguments, ModelArguments, MoshiTTTTrainingArguments
from .checkpoint_folders import CheckpointFolders, find_checkpoint, step_of

logger = logging.get_logger(__name__)

SETTINGS_FILE = "run_settings.json"
_MODEL_FILES = ("config.json", "adapter_config.json")
# What a checkpoint holds beside the model: the files, those of FSDP and of several processes too.
_PARTS = {
    "the step": "trainer_state.json",
    "the settings": SETTINGS_FILE,
    "the optimizer": "optimizer*",
    "the schedule": "scheduler.pt",
    "the random numbers": "rng_state*.pth",
}
_ALWAYS = ("the step", "the settings")
# What the course of a run depends on. Of the model, the configuration is compared whole (config.json).
_DATA_KEYS = ("duration_sec", "overlap_sec", "order", "data_fingerprint", "seed", "data_seed", "rows_per_step")
_LANE_KEYS = ("per_device_train_batch_size", "world_size", "carry_window", "state_reset_probability")
_MODEL_KEYS = ("trainable", "bf16")
_LORA_KEYS = ("model_name_or_path", "lora_rank", "lora_scaling", "lora_parts")
_OPTIMIZER_KEYS = (
    "learning_rate", "ttt_lr_multiplier", "gate_lr_multiplier", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "inner_lr_warmup_steps", "weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm",
)  # fmt: skip
_START_KEYS = ("preset", "weights_from", "reset_optimizer")
_LENGTH_KEYS = ("max_steps", "num_train_epochs")


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Args:
        checkpoint: the one to continue, or None for step 0.
        fresh_optimizer: whether the checkpoint's moments are dropped.
        is_finished: whether it is the last of a finished run in `output_dir`, and there is nothing to train if the
            settings are those of that run.
    """

    checkpoint: Path | None = None
    fresh_optimizer: bool = False
    is_finished: bool = False

    def describe(self) -> str:
        """How the run starts, in words."""
        if self.is_finished:
            return (
                f"{self.checkpoint} is the end of this run, nothing is trained. To train it again, choose another "
                "output_dir, or remove it"
            )
        return f"continues {self.checkpoint}" if self.checkpoint else "step 0"


def plan_start(args: MoshiTTTTrainingArguments) -> Start:
    """How the settings say that the run starts.

    Raises:
        ValueError: a checkpoint that is not there or not whole, or a run that would start among another's checkpoints.
    """
    folders = CheckpointFolders(str(args.output_dir))
    if args.resume_from_checkpoint is True and (newest := folders.newest()) is not None:
        return Start(newest)
    named = None if args.reset_step else args.resume_from
    if isinstance(args.resume_from_checkpoint, str):
        named = args.resume_from_checkpoint
    start = Start() if named is None else Start(find_checkpoint(named), args.reset_optimizer)
    if args.resume_from_checkpoint is True or not folders.present():
        return start
    if start.checkpoint is not None and start.checkpoint.parent.resolve() == folders.output_dir.resolve():
        _require_the_last(start.checkpoint, folders)
        return start
    if (last := _last_of_finished(folders)) is not None:
        return Start(last, is_finished=True)
    raise ValueError(_holds_another_run(folders))


def _require_the_last(checkpoint: Path, folders: CheckpointFolders) -> None:
    newest = folders.newest()
    if newest is not None and step_of(newest) > step_of(checkpoint):
        raise ValueError(
            f"{folders.output_dir} holds {newest.name}, which is later than {checkpoint.name} and would be taken for "
            "the newest of this run. Choose another output_dir, or move the later checkpoints away."
        )


def _last_of_finished(folders: CheckpointFolders) -> Path | None:
    """The last checkpoint of a run that came to its end and left its final model, or None."""
    last = folders.newest()
    if last is None or not _holds_model(folders.output_dir):
        return None
    if not all((last / _PARTS[part]).is_file() for part in _ALWAYS):
        return None
    step, max_steps = _steps_of(last)
    return last if step >= max_steps else None


def _steps_of(folder: Path) -> tuple[int, int]:
    """The step that a folder's trainer state was saved at, and the last of the run."""
    state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return state["global_step"], state["max_steps"]


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MODEL_FILES)


def _holds_another_run(folders: CheckpointFolders, differences: str = "") -> str:
    return (
        f"{folders.output_dir} holds {folders.present()[-1].name} of another run{differences}. Continue it "
        "(resume_from_checkpoint=true), choose another output_dir, or remove it."
    )


def require_parts(start: Start) -> None:
    """Refuses a checkpoint that lacks a part of what its run was doing.

    Raises:
        ValueError: with every part that is missing. With fresh moments, and of a finished run, only step and settings
            are needed.
    """
    assert start.checkpoint is not None
    needed = [name for name in _PARTS if name in _ALWAYS or not (start.fresh_optimizer or start.is_finished)]
    missing = [name for name in needed if not any(start.checkpoint.glob(_PARTS[name]))]
    if not missing:
        return
    lacks = ", ".join(f"{name} ({_PARTS[name]})" for name in missing)
    if set(missing) & set(_ALWAYS):
        remedy = "It was not written by this trainer; take over only its weights (reset_optimizer and reset_step)."
    else:
        remedy = (
            "It was saved with save_only_model=true. Take a checkpoint that has them, or continue with fresh moments: "
            f"resume_from={start.checkpoint} with reset_optimizer=true."
        )
    raise ValueError(f"{start.checkpoint}: cannot be continued, it lacks {lacks}. {remedy}")


def weights_of(name_or_path: str) -> str:
    """Where the weights of a run lie: its final model, or its newest whole checkpoint where that is later.

    Raises:
        ValueError: a run's folder with neither, or weights in shards.
    """
    folder = Path(name_or_path)
    if not folder.is_dir() or (_holds_model(folder) and not _has_later_checkpoint(folder)):
        return name_or_path
    checkpoint = find_checkpoint(folder)
    if checkpoint != folder and not _holds_model(folder):
        logger.warning(f"{folder}: holds no final model yet, the weights of {checkpoint.name} are taken.")
    if not _holds_model(checkpoint):
        raise ValueError(
            f"{checkpoint}: holds weights in shards, which only FSDP continues. Take the final model of its run, or "
            "put them together with accelerate merge-weights."
        )
    return str(checkpoint)


def _has_later_checkpoint(folder: Path) -> bool:
    """Whether a run went on after its final model was saved, and did not come to its end again."""
    newest = CheckpointFolders(folder).newest()
    if newest is None or not (folder / TRAINER_STATE_NAME).is_file():
        return False
    step, max_steps = _steps_of(folder)
    is_later = step < max_steps or step_of(newest) > step
    if is_later:
        logger.warning(f"{folder}: the final model is older than {newest.name}, whose weights are taken.")
    return is_later


def course_settings(
    model: ModelArguments, data: DataArguments, args: MoshiTTTTrainingArguments, data_fingerprint: str
) -> dict[str, Any]:
    """What the course of a run depends on, as it is saved in every checkpoint."""
    values = {**vars(model), **vars(data), **args.to_dict()}
    values |= {
        "data_fingerprint": data_fingerprint,
        "world_size": args.world_size,
        "rows_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "weights_from": args.resume_from if args.reset_optimizer else None,
    }
    keys = (*_DATA_KEYS, *_LANE_KEYS, *_MODEL_KEYS, *_LORA_KEYS, *_OPTIMIZER_KEYS, *_START_KEYS, *_LENGTH_KEYS)
    return json.loads(json.dumps({key: values[key] for key in keys}))


def require_same_course(start: Start, asked: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuses to continue a checkpoint, or to take it for this run's end, under other settings than it was saved with.

    Args:
        asked: `course_settings` of now.
        config: keys of the model's configuration, those of sections as `section.key`.

    Raises:
        ValueError: with every differing setting, its value in the checkpoint and the one asked for.
    """
    assert start.checkpoint is not None
    saved = json.loads((start.checkpoint / SETTINGS_FILE).read_text(encoding="utf-8"))
    course = saved["course"]
    differences = _differences(course, asked, _compared_keys(start, asked))
    differences += _differences(saved["config"], config, sorted(saved["config"].keys() | config.keys()), "config.")
    if differences and start.is_finished:
        folders = CheckpointFolders(start.checkpoint.parent)
        raise ValueError(_holds_another_run(folders, f" ({'; '.join(differences)})"))
    if differences:
        raise ValueError(
            f"{start.checkpoint}: {'; '.join(differences)}. A run continues only with the settings it was started "
            "with. Put these back, or take over only the weights: resume_from with reset_optimizer=true and "
            "reset_step=true."
        )
    for key in (*_LENGTH_KEYS, "world_size"):
        if course.get(key) != asked[key]:
            logger.warning(f"{start.checkpoint}: {key} was {course.get(key)!r} and is {asked[key]!r} from here on.")


def _compared_keys(start: Start, asked: Mapping[str, Any]) -> list[str]:
    if start.is_finished:
        return sorted(asked)
    keys = [*_DATA_KEYS, *_MODEL_KEYS, *(() if start.fresh_optimizer else _OPTIMIZER_KEYS)]
    keys += _LANE_KEYS if asked["order"] == "lanes" else ()
    keys += _LORA_KEYS if "lora" in asked["trainable"] else ()
    return keys


def _differences(
    saved: Mapping[str, Any], asked: Mapping[str, Any], keys: Iterable[str], prefix: str = ""
) -> list[str]:
    """Per key whose value differs, both values."""
    return [
        f"{prefix}{key} is {saved.get(key)!r}, asked for {asked.get(key)!r}"
        for key in keys
        if saved.get(key) != asked.get(key)
    ]


def save_settings(folder: Path, course: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes what `require_same_course` reads."""
    text = json.dumps({"course": course, "config": config}, indent=1, sort_keys=True)
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
