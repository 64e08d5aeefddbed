"""The three ways to start from a checkpoint, and what each requires.

| way      | settings                                                    | taken over                           |
| -------- | ----------------------------------------------------------- | ------------------------------------ |
| continue | `resume_from_checkpoint: true` or a path, or `resume_from`  | everything: equal to never stopping  |
| transfer | `resume_from`, `reset_optimizer: true`, `reset_step: true`  | weights, for other data or schedules |
| finetune | the same, with keys of `config` that change                 | weights, see `config_changes.py`     |

`reset_optimizer` alone keeps step, schedule and data position, and begins with fresh moments. `resume_from` together
with `resume_from_checkpoint: true` counts only while `output_dir` holds no checkpoint, so the same command starts a run
and continues it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .arguments import DataArguments, ModelArguments, MoshiTTTTrainingArguments
from .checkpoint_folders import CheckpointFolders, find_checkpoint

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
_DATA_KEYS = ("duration_sec", "overlap_sec", "order", "data_fingerprint", "seed", "rows_per_step")
_LANE_KEYS = ("per_device_train_batch_size", "world_size", "carry_window", "state_reset_probability")
_MODEL_KEYS = ("trainable", "bf16")
_LORA_KEYS = ("model_name_or_path", "lora_rank", "lora_scaling", "lora_parts")
_OPTIMIZER_KEYS = (
    "learning_rate", "ttt_lr_multiplier", "gate_lr_multiplier", "lr_scheduler_type", "lr_scheduler_kwargs",
    "warmup_steps", "inner_lr_warmup_steps", "weight_decay", "optim", "optim_args", "adam_beta1", "adam_beta2",
    "adam_epsilon", "max_grad_norm",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Args:
        checkpoint: the one to continue, or None for step 0.
        fresh_optimizer: whether the checkpoint's moments are dropped.
    """

    checkpoint: Path | None = None
    fresh_optimizer: bool = False


def plan_start(args: MoshiTTTTrainingArguments) -> Start:
    """How the settings say that the run starts.

    Raises:
        ValueError: a checkpoint that is not there or not whole, or a run that would start among another's checkpoints.
    """
    folders = CheckpointFolders(str(args.output_dir))
    if isinstance(args.resume_from_checkpoint, str):
        return Start(checkpoint=find_checkpoint(args.resume_from_checkpoint))
    if args.resume_from_checkpoint and (newest := folders.newest()) is not None:
        return Start(checkpoint=newest)
    if args.resume_from is not None and not args.reset_step:
        return Start(checkpoint=find_checkpoint(args.resume_from), fresh_optimizer=args.reset_optimizer)
    if not args.resume_from_checkpoint and folders.present():
        raise ValueError(
            f"{args.output_dir} holds {folders.present()[-1].name} of another run. Continue it "
            "(resume_from_checkpoint=true), choose another output_dir, or remove it."
        )
    return Start()


def require_parts(start: Start) -> None:
    """Refuses a checkpoint that lacks a part of what its run was doing.

    Raises:
        ValueError: with every part that is missing. With fresh moments, only step and settings are needed.
    """
    assert start.checkpoint is not None
    needed = [name for name in _PARTS if name in _ALWAYS or not start.fresh_optimizer]
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
    """Where the weights of a run lie: its final model, or else its newest whole checkpoint.

    Raises:
        ValueError: a run's folder with neither, or weights in shards.
    """
    folder = Path(name_or_path)
    if not folder.is_dir() or any((folder / name).is_file() for name in _MODEL_FILES):
        return name_or_path
    checkpoint = find_checkpoint(folder)
    if not any((checkpoint / name).is_file() for name in _MODEL_FILES):
        raise ValueError(
            f"{checkpoint}: holds weights in shards, which only FSDP continues. Take the final model of its run, or "
            "put them together with accelerate merge-weights."
        )
    return str(checkpoint)


def course_settings(
    model: ModelArguments, data: DataArguments, args: MoshiTTTTrainingArguments, data_fingerprint: str
) -> dict[str, Any]:
    """What the course of a run depends on, as it is saved in every checkpoint."""
    values = {**vars(model), **vars(data), **args.to_dict()}
    values |= {
        "data_fingerprint": data_fingerprint,
        "world_size": args.world_size,
        "rows_per_step": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
    }
    keys = (*_DATA_KEYS, *_LANE_KEYS, *_MODEL_KEYS, *_LORA_KEYS, *_OPTIMIZER_KEYS, "max_steps", "num_train_epochs")
    return json.loads(json.dumps({key: values[key] for key in keys}))


def require_same_course(start: Start, asked: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuses to continue a checkpoint under other settings than it was saved with.

    Args:
        asked: `course_settings` of now.
        config: keys of the model's configuration, those of sections as `section.key`.

    Raises:
        ValueError: with every differing setting, its value in the checkpoint and the one asked for.
    """
    assert start.checkpoint is not None
    saved = json.loads((start.checkpoint / SETTINGS_FILE).read_text(encoding="utf-8"))
    course, saved_config = saved["course"], saved["config"]
    keys = [*_DATA_KEYS, *_MODEL_KEYS, *(() if start.fresh_optimizer else _OPTIMIZER_KEYS)]
    keys += _LANE_KEYS if asked["order"] == "lanes" else ()
    keys += _LORA_KEYS if "lora" in asked["trainable"] else ()
    differing = [(key, course.get(key), asked[key]) for key in keys if course.get(key) != asked[key]]
    differing += [
        (f"config.{key}", saved_config.get(key), config.get(key))
        for key in sorted(saved_config.keys() | config.keys())
        if saved_config.get(key) != config.get(key)
    ]
    if differing:
        differences = "; ".join(f"{key} is {before!r}, asked for {now!r}" for key, before, now in differing)
        raise ValueError(
            f"{start.checkpoint}: {differences}. A run continues only with the settings it was started with. Put these "
            "back, or take over only the weights: resume_from with reset_optimizer=true and reset_step=true."
        )
    for key in ("max_steps", "num_train_epochs", "world_size"):
        if course.get(key) != asked[key]:
            logger.warning(f"{start.checkpoint}: {key} was {course.get(key)!r} and is {asked[key]!r} from here on.")


def save_settings(folder: Path, course: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes what `require_same_course` reads."""
    text = json.dumps({"course": course, "config": config}, indent=1, sort_keys=True)
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")
