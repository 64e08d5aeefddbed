"""`MoshiTTTTrainer`: transformers' Trainer with what TTT-Moshi needs on top.

- Parameter groups: base, TTT weights and gates with their own learning rates, each with and without weight decay; all
  rates are logged.
- Text and audio loss are logged beside their sum, and at logged steps what the memory of each TTT layer does.
- With `persistent_states`, memory is carried along lanes (`lane_memory.py`) and saved with every checkpoint.
- `stop_at_step` ends a run early with a checkpoint, on the schedule of the whole run.
"""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy

from .arguments import DataArguments, MoshiTTTTrainingArguments
from .audio import frames_from_sec
from .data.codes import Provenance, load_codes
from .data.collator import MoshiTTTCollator
from .data.segments import LaneSampler, SegmentDataset, ShuffledSampler
from .lane_memory import LaneMemory
from .memory_curves import LOG_PREFIX, layer_means, log_key, present_frames
from .modeling_moshi_ttt import MoshiTTTForConditionalGeneration, MoshiTTTOutput


class StopAtStep(TrainerCallback):
    """Saves and stops at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """transformers' hook."""
        if state.global_step >= self.step:
            control.should_save = control.should_training_stop = True
        return control


class ShortProgressCallback(ProgressCallback):
    """The progress bar, without printing a line for every quantity of every layer."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """transformers' hook."""
        shown = {key: value for key, value in (logs or {}).items() if not key.startswith(LOG_PREFIX)}
        super().on_log(args, state, control, logs=shown, **kwargs)


class MoshiTTTTrainer(Trainer):
    """Trains a `MoshiTTTForConditionalGeneration` on segments of codes.

    Args:
        order: `"shuffled"` or `"lanes"`; the memory is carried along lanes where the model says `persistent_states`.

    Raises:
        ValueError: `persistent_states` without lanes.
    """

    if TYPE_CHECKING:  # transformers declares these wider than they are here
        model: Any
        args: Any
        optimizer: Any

    def __init__(
        self,
        model: MoshiTTTForConditionalGeneration,
        args: MoshiTTTTrainingArguments,
        train_dataset: SegmentDataset,
        data_collator: MoshiTTTCollator,
        order: str = "shuffled",
    ) -> None:
        ttt = model.config.ttt
        if ttt is not None and ttt.persistent_states and order != "lanes":
            raise ValueError(
                f"persistent_states carries memory along lanes, but order={order!r}. Set order to 'lanes'."
            )
        self.segments = train_dataset
        self.order = order
        self.lanes = (
            LaneMemory(partial(model.init_state, window=False), model.config)
            if ttt is not None and ttt.persistent_states
            else None
        )
        self._noted: dict[str, list[Tensor]] = {}
        self._rates: dict[str, float] = {}
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=data_collator)
        if args.stop_at_step is not None:
            self.add_callback(StopAtStep(args.stop_at_step))
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ShortProgressCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        lanes = self.args.per_device_train_batch_size * self.args.world_size
        if self.order == "lanes":
            return LaneSampler(self.segments, lanes, self.args.seed)
        return ShuffledSampler(self.segments, lanes, self.args.seed)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The weighted loss of one batch; in training and where memory is carried, from the state of its lanes."""
        lanes = self.lanes if model.training else None
        state = lanes.state_for(inputs["recording"], inputs["start_frame"]) if lanes else None
        diagnostics = model.training and self._is_logged_step()
        outputs = model(codes=inputs["codes"], labels=inputs["labels"], state=state, diagnostics=diagnostics)
        if lanes:
            lanes.keep(outputs.state, inputs)
        if model.training:
            self._note_step(outputs, inputs["codes"])
        self.loss_is_scaled_for_ga = False
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def _is_logged_step(self) -> bool:
        """Whether the step under way ends with a log; only then do memories tell what they do."""
        step, by_steps = self.state.global_step + 1, self.args.logging_strategy == IntervalStrategy.STEPS
        return by_steps and (step % self.state.logging_steps == 0 or (step == 1 and self.args.logging_first_step))

    def _note_step(self, outputs: MoshiTTTOutput, codes_BKT: Tensor) -> None:
        noted = {name: outputs[name].detach() for name in ("text_loss", "audio_loss")}
        told_layers = self.model.config.ttt_layer_indices if outputs.diagnostics else []
        for layer, told in zip(told_layers, outputs.diagnostics or (), strict=True):
            means = layer_means(told, present_frames(codes_BKT))
            noted.update({log_key(layer, name): value for name, value in means.items()})
        for name, value in noted.items():
            self._noted.setdefault(name, []).append(value)
        self._rates = {f"learning_rate/{group['name']}": group["lr"] for group in self.optimizer.param_groups}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss since the last log, this step's memories and each parameter group's rate."""
        if "loss" in logs:
            parts = {name: torch.stack(values).mean().item() for name, values in self._noted.items()}
            self._noted = {}
            logs = {**logs, **parts, **self._rates}
        super().log(logs, start_time)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer over the groups of `parameter_groups`."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(parameter_groups(self.model, self.args), **options)
        return self.optimizer

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.lanes:  # first, so that a checkpoint whose trainer_state.json exists is whole
            folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            folder.mkdir(parents=True, exist_ok=True)
            self.lanes.save(folder, self.args.process_index)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.lanes and checkpoint is not None:
            self.lanes.load(checkpoint, self.args.process_index)


def parameter_groups(model: nn.Module, args: MoshiTTTTrainingArguments) -> list[dict[str, Any]]:
    """Trainable parameters as optimizer groups: base, TTT weights and gates, matrices apart from vectors (no decay)."""
    rates = {
        "base": args.learning_rate,
        "ttt": args.learning_rate * args.ttt_lr_multiplier,
        "gate": args.learning_rate * args.gate_lr_multiplier,
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "gate" if ".ttt_gate." in name else "ttt" if ".ttt." in name or ".ttt_norm." in name else "base"
        decays = parameter.dim() >= 2 and "norm" not in name and "bias" not in name
        key = kind if decays else f"{kind}_no_decay"
        weight_decay = args.weight_decay if decays else 0.0
        group = groups.setdefault(key, {"name": key, "params": [], "lr": rates[kind], "weight_decay": weight_decay})
        group["params"].append(parameter)
    return list(groups.values())


def build_trainer(
    model: MoshiTTTForConditionalGeneration, data: DataArguments, args: MoshiTTTTrainingArguments
) -> MoshiTTTTrainer:
    """A trainer on the encoded recordings that the arguments name; the model's config says which codec made them.

    Raises:
        ValueError: codes of another codec than the model's.
    """
    codes, provenance = load_codes(data.train_codes)
    adopt_provenance(model, provenance)
    segments = SegmentDataset(
        codes,
        frames_from_sec(data.duration_sec),
        overlap_frames=frames_from_sec(data.overlap_sec),
        frame_rate_hz=provenance.frame_rate_hz,
    )
    collator = MoshiTTTCollator(model.config, provenance.silence_codes)
    return MoshiTTTTrainer(model, args, segments, collator, data.order)


def adopt_provenance(model: MoshiTTTForConditionalGeneration, provenance: Provenance) -> None:
    """Writes the codec and tokenizer of the data into the model's configuration.

    Raises:
        ValueError: the codec has more ids than the model.
    """
    if provenance.codebook_size != model.config.codebook_size:
        raise ValueError(
            f"The codes come from {provenance.codec} with {provenance.codebook_size} ids a codebook, "
            f"but the model has codebook_size={model.config.codebook_size}."
        )
    model.config.codec = provenance.codec
    if provenance.text_tokenizer is not None:
        model.config.text_tokenizer = provenance.text_tokenizer
