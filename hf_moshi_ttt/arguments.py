"""The settings of a training run: a YAML file, changed by `key=value` arguments; unknown keys are refused."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.dataclasses import strict
from transformers import TrainingArguments


@strict
@dataclass
class ModelArguments:
    """Which model is trained: a checkpoint or a preset, with configuration keys changed."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: its weights alone, with a fresh optimizer."}
    )
    preset: str | None = field(default=None, metadata={"help": "Preset of a freshly initialised model."})
    config: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Configuration keys to change; `ttt` changes single keys of its section."},
    )

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.preset is None):
            raise ValueError(
                f"model_name_or_path={self.model_name_or_path!r} and preset={self.preset!r}: give exactly one of them."
            )


@strict
@dataclass
class DataArguments:
    """What the model is trained on."""

    train_codes: str | dict[str, float | int] = field(
        metadata={
            "help": "Folder of encoded recordings (scripts/prepare_data.py), a dataset of them on the Hub, or a "
            "mixture of several as {folder: share of the time}."
        }
    )
    overlap_sec: float | int = field(
        default=0.0, metadata={"help": "What a training segment shares with the one before it, in seconds."}
    )
    duration_sec: float | int = field(default=60.0, metadata={"help": "Length of a training segment in seconds."})
    order: str = field(
        default="shuffled",
        metadata={
            "help": "'shuffled', or 'lanes': each batch row walks recordings in sequence.",
            "choices": ["shuffled", "lanes"],
        },
    )

    def __post_init__(self) -> None:
        if self.order not in ("shuffled", "lanes"):
            raise ValueError(f"order={self.order!r}, but order must be 'shuffled' or 'lanes'.")
        if not self.duration_sec > 0:
            raise ValueError(f"duration_sec={self.duration_sec!r}, but it must be above 0 seconds.")
        if not 0 <= self.overlap_sec < self.duration_sec:
            raise ValueError(
                f"overlap_sec={self.overlap_sec!r}, but it must be 0 or more and below "
                f"duration_sec={self.duration_sec!r}."
            )


@dataclass
class MoshiTTTTrainingArguments(TrainingArguments):
    """transformers' arguments and those of TTT-Moshi."""

    ttt_lr_multiplier: float = field(
        default=10.0, metadata={"help": "Learning rate of the TTT weights in units of learning_rate."}
    )
    gate_lr_multiplier: float = field(
        default=100.0, metadata={"help": "Learning rate of the TTT gates in units of learning_rate."}
    )
    stop_at_step: int | None = field(
        default=None, metadata={"help": "Save a checkpoint and stop at this step, with the schedule of the whole run."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to hide NaN and Inf losses in logs."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Whether to drop columns that forward lacks."})
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Whether to hide the progress bar."})

    def __post_init__(self) -> None:
        for key in ("learning_rate", "ttt_lr_multiplier", "gate_lr_multiplier"):
            value = getattr(self, key)
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{key}={value!r}, but it must be a number, 0 or more.")
        if self.stop_at_step is not None and self.stop_at_step < 1:
            raise ValueError(f"stop_at_step={self.stop_at_step!r}, but it must be at least 1.")
        super().__post_init__()


class _Loader(yaml.SafeLoader):
    """YAML with 3e-4 as a number, as everyone reads it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_settings(path: str | Path, changes: list[str]) -> dict[str, Any]:
    """The settings of a YAML file with `key=value` changes; `a.b=value` changes key b of section a.

    Raises:
        ValueError: missing file, no valid YAML mapping in it, or a change that is no `key=value`.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such configuration file.")
    settings = _parsed(Path(path).read_text(encoding="utf-8"), path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected `key: value` lines, got {settings!r}.")
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator or not key:
            raise ValueError(f"{change!r}: expected key=value.")
        section = settings
        *parents, last = key.split(".")
        for parent in parents:
            section[parent] = section.get(parent) or {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ValueError(f"{change!r}: {parent} is {section!r}, not a section.")
        section[last] = _parsed(value, change)
    return settings


def _parsed(text: str, where: str | Path) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML ({error}).") from error


def parse_settings(settings: dict[str, Any]) -> tuple[ModelArguments, DataArguments, MoshiTTTTrainingArguments]:
    """Settings as arguments.

    Raises:
        ValueError: an unknown key (with the known ones), a missing one, or a value out of bounds.
    """
    kinds = (ModelArguments, DataArguments, MoshiTTTTrainingArguments)
    names = {kind: {item.name for item in fields(kind) if item.init} for kind in kinds}
    unknown = sorted(set(settings) - set().union(*names.values()))
    if unknown:
        own = sorted(names[ModelArguments] | names[DataArguments])
        raise ValueError(f"Unknown settings {unknown}. Known: {', '.join(own)}, and transformers' TrainingArguments.")
    if "train_codes" not in settings:
        raise ValueError("train_codes is missing: the folder of encoded recordings (scripts/prepare_data.py).")
    chosen = [{key: value for key, value in settings.items() if key in names[kind]} for kind in kinds]
    return ModelArguments(**chosen[0]), DataArguments(**chosen[1]), MoshiTTTTrainingArguments(**chosen[2])
