"""The settings of a training run by their keys: defaults, meanings and bounds; unknown keys are refused."""

from dataclasses import dataclass, field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..configuration_moshi_ttt import MoshiTTTConfig
from ..extras import require_extras
from ..settings import typed_values

TRAINABLE = ("lora", "ttt", "lora+ttt", "full")
LORA_PARTS = ("attention", "ffn", "depth", "text_head")


@strict
@dataclass
class ModelArguments:
    """Which model is trained: a checkpoint or a preset, with configuration keys changed, and what of it is trained."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Model to start from: a folder or a name on the Hub, of any known layout."}
    )
    preset: str | None = field(default=None, metadata={"help": "Preset of a freshly initialised model."})
    config: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "Configuration keys to change; `ttt` changes single keys of its section, null removes it."},
    )
    trainable: str = field(
        default="full",
        metadata={
            "help": "What is trained: 'lora', 'ttt' (the TTT blocks), 'lora+ttt', or 'full' (everything).",
            "choices": list(TRAINABLE),
        },
    )
    lora_rank: int = field(default=64, metadata={"help": "Rank of LoRA, where trained."})
    lora_scaling: float | int = field(default=2.0, metadata={"help": "What LoRA's output is multiplied by."})
    lora_parts: list[str] = field(
        default_factory=lambda: ["attention", "ffn", "depth"],
        metadata={"help": f"Linears that get LoRA: some of {', '.join(LORA_PARTS)}."},
    )

    def __post_init__(self) -> None:
        if self.trainable not in TRAINABLE:
            raise ValueError(f"trainable={self.trainable!r}, but it must be one of {', '.join(TRAINABLE)}.")
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank={self.lora_rank!r}, but it must be at least 1.")
        if not self.lora_scaling > 0:
            raise ValueError(f"lora_scaling={self.lora_scaling!r}, but it must be above 0.")
        if not self.lora_parts or set(self.lora_parts) - set(LORA_PARTS):
            raise ValueError(f"lora_parts={self.lora_parts!r}, but they must be some of {', '.join(LORA_PARTS)}.")


@strict
@dataclass
class DataArguments:
    """What the model is trained on."""

    train_codes: str | dict[str, float | int] = field(
        metadata={
            "help": "Folder of encoded recordings (hf-moshi-ttt prepare), a dataset of them on the Hub, or a "
            "mixture of several as {folder: fraction of the time}."
        }
    )
    eval_codes: str | None = field(
        default=None,
        metadata={
            "help": "Held-out recordings: the losses of their segments are logged at eval_strategy, the long-context "
            "numbers of whole ones every eval_long_context_steps, turn-taking every eval_turn_taking_steps."
        },
    )
    overlap_sec: float | int = field(
        default=0.0, metadata={"help": "Overlap of a training segment with the one before it, in seconds."}
    )
    duration_sec: float | int | list[dict[str, float | int]] = field(
        default=60.0,
        metadata={
            "help": "Length of a training segment in seconds, or stages of it: [{duration_sec: 20, steps: 1000}, "
            "{duration_sec: 60}], of which the last has no steps and lasts to the end."
        },
    )
    order: str = field(
        default="shuffled",
        metadata={
            "help": "'shuffled', or 'lanes': each batch row walks through recordings in sequence.",
            "choices": ["shuffled", "lanes"],
        },
    )

    def __post_init__(self) -> None:
        if self.order not in ("shuffled", "lanes"):
            raise ValueError(f"order={self.order!r}, but order must be 'shuffled' or 'lanes'.")
        for duration_sec, _ in self.stages():
            if not duration_sec > 0:
                raise ValueError(f"duration_sec={duration_sec!r}, but it must be above 0 seconds.")
            if not 0 <= self.overlap_sec < duration_sec:
                raise ValueError(
                    f"overlap_sec={self.overlap_sec!r}, but it must be 0 or more and below "
                    f"duration_sec={duration_sec!r}."
                )

    def stages(self) -> list[tuple[float, int | None]]:
        """Segment lengths in seconds and for how many steps each; None for the last one.

        Raises:
            ValueError: stages that are not `{duration_sec, steps}`, or steps missing before the last or given for it.
        """
        if not isinstance(self.duration_sec, list):
            return [(self.duration_sec, None)]
        for place, stage in enumerate(self.duration_sec, start=1):
            expected = {"duration_sec"} if place == len(self.duration_sec) else {"duration_sec", "steps"}
            if set(stage) != expected or not (isinstance(stage.get("steps", 1), int) and stage.get("steps", 1) > 0):
                raise ValueError(
                    f"duration_sec: stage {place} is {stage!r}, but a stage is {{duration_sec: seconds, steps: whole "
                    "number above 0}, the last one without steps."
                )
        if not self.duration_sec:
            raise ValueError("duration_sec=[], but it must be a number or at least one stage.")
        return [(stage["duration_sec"], stage.get("steps")) for stage in self.duration_sec]  # type: ignore[misc]


# Settings of transformers that this trainer does not follow: their value, and why no other is taken.
_REFUSED: dict[str, tuple[Any, str]] = {
    "fp16": (False, "Moshi's weights need the range of bfloat16: use bf16"),
    "label_smoothing_factor": (0.0, "the losses are those of Moshi"),
    "auto_find_batch_size": (False, "lanes and exact resumption need a fixed batch"),
    "train_sampling_strategy": ("random", "use order"),
    "enable_jit_checkpoint": (False, "SIGTERM saves and stops without it"),
    "use_liger_kernel": (False, "it knows no Moshi"),
    "neftune_noise_alpha": (None, "it knows no embeddings of 17 streams"),
    "deepspeed": (None, "use FSDP2 (configs/accelerate/fsdp2_4gpu.yaml)"),
    "save_on_each_node": (False, "checkpoints need a folder that all nodes share"),
    "ignore_data_skip": (False, "a run continues at its place in the data"),
    "dataloader_in_order": (True, "the order of batches is that of the lanes, and the same in every run"),
    "label_names": (None, "the labels are those of the collator"),
}


@dataclass
class MoshiTTTTrainingArguments(TrainingArguments):
    """transformers' arguments and those of TTT-Moshi."""

    ttt_lr_multiplier: float = field(
        default=10.0, metadata={"help": "Learning rate of the TTT weights in units of learning_rate."}
    )
    gate_lr_multiplier: float = field(
        default=100.0, metadata={"help": "Learning rate of the TTT gates in units of learning_rate."}
    )
    inner_lr_warmup_steps: int = field(
        default=0, metadata={"help": "Steps over which the TTT layers' base_lr rises from 0, in training only."}
    )
    carry_window: bool = field(
        default=False,
        metadata={"help": "Whether lanes carry the attention window too, from segment to segment of a recording."},
    )
    state_reset_probability: float = field(
        default=0.0, metadata={"help": "Probability that a lane is reset at a segment that continues the last."}
    )
    eval_long_context_steps: int | None = field(
        default=None,
        metadata={"help": "After how many steps each to log eval_librilight_* of the recordings in eval_codes."},
    )
    eval_turn_taking_steps: int | None = field(
        default=None,
        metadata={"help": "After how many steps each to log eval_* of turn-taking in conversations of eval_codes."},
    )
    eval_turn_taking_conversations: int = field(
        default=4, metadata={"help": "How many of them, from the first: each is answered in real steps of 80 ms."}
    )
    sample_steps: int | None = field(
        default=None,
        metadata={
            "help": "After how many steps each to continue recordings of eval_codes: wavs and text in "
            "output_dir/samples, and in the trackers."
        },
    )
    sample_recordings: int = field(default=2, metadata={"help": "How many recordings samples continue."})
    sample_prompt_sec: float | int = field(default=10.0, metadata={"help": "How much of each is given, in seconds."})
    sample_new_sec: float | int = field(default=5.0, metadata={"help": "How much the model adds, in seconds."})
    stop_at_step: int | None = field(
        default=None, metadata={"help": "Save a checkpoint and stop at this step, with the schedule of the whole run."}
    )
    resume_from_checkpoint: str | bool | None = field(  # type: ignore[assignment]  # true is transformers' own too
        default=None,
        metadata={
            "help": "Continue exactly where a run stopped: true for the newest whole checkpoint in output_dir, or to "
            "start where there is none; or the path of a checkpoint or of a run."
        },
    )
    resume_from: str | None = field(
        default=None,
        metadata={"help": "Checkpoint or run to continue; with both resets, a model whose weights are taken over."},
    )
    reset_optimizer: bool = field(default=False, metadata={"help": "Drop the optimizer's moments of resume_from."})
    reset_step: bool = field(
        default=False, metadata={"help": "Begin at step 0 with a new schedule; goes with reset_optimizer."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Whether to hide NaN and Inf losses in logs."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Whether to drop columns that forward lacks."})
    eval_do_concat_batches: bool = field(
        default=False, metadata={"help": "Whether predictions are joined over batches, which needs one length of all."}
    )
    disable_tqdm: bool | None = field(default=False, metadata={"help": "Whether to hide the progress bar."})

    def __post_init__(self) -> None:
        for key in ("learning_rate", "ttt_lr_multiplier", "gate_lr_multiplier"):
            value = getattr(self, key)
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"{key}={value!r}, but it must be a number, 0 or more.")
        counts = ("stop_at_step", "eval_long_context_steps", "sample_steps")
        for key in (*counts, "eval_turn_taking_steps", "eval_turn_taking_conversations"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{key}={value!r}, but it must be at least 1.")
        for key in ("sample_recordings", "sample_prompt_sec", "sample_new_sec"):
            if not getattr(self, key) > 0:
                raise ValueError(f"{key}={getattr(self, key)!r}, but it must be above 0.")
        if not isinstance(self.inner_lr_warmup_steps, int) or self.inner_lr_warmup_steps < 0:
            raise ValueError(f"inner_lr_warmup_steps={self.inner_lr_warmup_steps!r}, but it must be 0 or more steps.")
        if not 0 <= self.state_reset_probability <= 1:
            raise ValueError(f"state_reset_probability={self.state_reset_probability!r}, but it must lie in 0..1.")
        for key, (only, why) in _REFUSED.items():
            if getattr(self, key) != only:
                raise ValueError(f"{key}={getattr(self, key)!r} is not supported: {why}.")
        self._require_one_way_to_start()
        super().__post_init__()
        accelerator: Any = self.accelerator_config
        if accelerator.split_batches:
            raise ValueError(
                "accelerator_config.split_batches=True is not supported: lanes and steps count "
                f"per_device_train_batch_size={self.per_device_train_batch_size} rows for each process. Divide that by "
                "the number of processes instead."
            )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, and so what training_args.bin holds, which push_to_hub publishes: all but the token."""
        return {**vars(self), "hub_token": None}

    def _require_one_way_to_start(self) -> None:
        for key in ("reset_optimizer", "reset_step"):
            if getattr(self, key) and self.resume_from is None:
                raise ValueError(f"{key}=true, but there is nothing to reset: it belongs to resume_from.")
        if self.reset_step and not self.reset_optimizer:
            raise ValueError(
                "reset_step=true with reset_optimizer=false: moments belong to their step. Reset both to take over "
                "only the weights, or neither to continue."
            )
        if self.resume_from is not None and isinstance(self.resume_from_checkpoint, str):
            raise ValueError(
                f"resume_from={self.resume_from!r} and resume_from_checkpoint={self.resume_from_checkpoint!r} both "
                "name a run to start from: give one of them. (resume_from_checkpoint=true goes with resume_from: it "
                "counts where output_dir holds no checkpoint yet.)"
            )


SETTINGS: tuple[Any, ...] = (ModelArguments, DataArguments, MoshiTTTTrainingArguments)


def parse_settings(settings: dict[str, Any]) -> tuple[ModelArguments, DataArguments, MoshiTTTTrainingArguments]:
    """Settings as arguments.

    Raises:
        ValueError: an unknown key (with the known ones), a missing one, a value out of bounds, or a tracker that is not
            installed.
    """
    names = {kind: {item.name for item in fields(kind) if item.init} for kind in SETTINGS}
    unknown = sorted(set(settings) - set().union(*names.values()))
    if unknown:
        own = sorted(set().union(*names.values()) - {item.name for item in fields(TrainingArguments)})
        raise ValueError(f"Unknown settings {unknown}. Known: {', '.join(own)}, and transformers' TrainingArguments.")
    if "train_codes" not in settings:
        raise ValueError("train_codes is missing: the folder of encoded recordings (hf-moshi-ttt prepare).")
    chosen = [{key: value for key, value in settings.items() if key in names[kind]} for kind in SETTINGS]
    typed = [typed_values(kind, values) for kind, values in zip(SETTINGS, chosen, strict=True)]
    if isinstance(section := typed[0].get("config"), dict):
        typed[0]["config"] = typed_values(MoshiTTTConfig, section, "config.")
    model, data, training = (kind(**values) for kind, values in zip(SETTINGS, typed, strict=True))
    _require_one_model(model, training)
    _require_held_out_data(data, training)
    require_extras(training.report_to)
    if len(data.stages()) > 1 and training.max_steps < 1:
        raise ValueError("duration_sec has stages, which need max_steps to end.")
    return model, data, training


def _require_one_model(model: ModelArguments, training: MoshiTTTTrainingArguments) -> None:
    taken_over = training.resume_from if training.reset_step else None
    given = {"model_name_or_path": model.model_name_or_path, "preset": model.preset, "resume_from": taken_over}
    if sum(value is not None for value in given.values()) != 1:
        named = " and ".join(f"{key}={value!r}" for key, value in given.items() if value is not None) or "none is given"
        raise ValueError(
            f"The model to start from: give exactly one of model_name_or_path, preset, and resume_from with both "
            f"resets; {named}."
        )


_HELD_OUT_STEPS = ("eval_long_context_steps", "eval_turn_taking_steps", "sample_steps")


def _require_held_out_data(data: DataArguments, training: MoshiTTTTrainingArguments) -> None:
    strategy = IntervalStrategy(training.eval_strategy)
    steps = {key: getattr(training, key) for key in _HELD_OUT_STEPS}
    is_read = strategy != IntervalStrategy.NO or any(step is not None for step in steps.values())
    if is_read != (data.eval_codes is not None):
        *given, last = (f"{key}={value!r}" for key, value in steps.items())
        raise ValueError(
            f"eval_codes={data.eval_codes!r}, eval_strategy={strategy.value!r}, {', '.join(given)} and {last}: "
            "held-out data is read where "
            f"eval_strategy ('steps' or 'epoch') or one of {', '.join(steps)} says when. Give data and one of them, or "
            "none."
        )
    if training.metric_for_best_model is not None and training.save_total_limit == 1:
        raise ValueError(
            f"save_total_limit=1 with metric_for_best_model={training.metric_for_best_model!r}: in the end "
            "transformers would remove the newest checkpoint for the best. Use save_total_limit=2 or more."
        )
