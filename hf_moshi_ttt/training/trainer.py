"""`MoshiTTTTrainer`: transformers' Trainer with what TTT-Moshi needs on top of `training/exact_trainer.py`.

- The loss of a step is the mean over all its targets by their weights, on all processes and over all accumulation
  steps, so that the way in which a batch is divided changes nothing.
- Base, TTT weights and gates have their own learning rates (`training/parameter_groups.py`).
- Memory is carried along lanes (`training/lane_memory.py`), and the inner learning rate is warmed up.
- Logged: the loss of each stream, what the memory of each TTT layer does, every group's rate, speed and time left.
- `evaluate` gives the same losses, as means over all targets, of held-out segments, each from a fresh memory; it does
  not change the training. `evaluation/training_metrics.py` measures long recordings.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ProgressCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..checkpoints.adapters import require_whole_adapter
from ..configuration_moshi_ttt import MoshiTTTConfig
from ..data.collator import MoshiTTTCollator
from ..data.segments import InOrderSampler, LaneSampler, SegmentDataset, ShuffledSampler
from ..memory.diagnostics import log_key, means_by_layer, present_frames
from .arguments import MoshiTTTTrainingArguments
from .exact_trainer import ExactTrainer
from .fsdp import (
    require_every_parameter,
    require_what_was_asked,
    set_up_plugin,
    shard_learners,
    take_sharded_parameters,
)
from .lane_memory import LaneMemory
from .length_stages import StagedSegments, staged_sampler
from .log_window import LogWindow
from .parameter_groups import parameter_groups
from .resumption import save_settings
from .stop_requests import EXIT_CODE_TERMINATED
from .throughput import Throughput, flops_per_frame

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration, MoshiTTTOutput


class ShortProgressCallback(ProgressCallback):
    """The progress bar, without printing every quantity of every layer and the rate of every group."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """transformers' hook."""
        shown = {key: value for key, value in (logs or {}).items() if "/" not in key}
        super().on_log(args, state, control, logs=shown, **kwargs)


def _carries_memory(config: MoshiTTTConfig) -> bool:
    return config.ttt is not None and config.ttt.persistent_states


def _require_what_is_there(config: MoshiTTTConfig, args: MoshiTTTTrainingArguments, order: str) -> None:
    carries_memory = _carries_memory(config)
    if (carries_memory or args.carry_window) and order != "lanes":
        key = "persistent_states" if carries_memory else "carry_window"
        raise ValueError(f"{key} carries memory along lanes, but order={order!r}. Set order to 'lanes'.")
    if args.carry_window and config.ttt is not None and not carries_memory:
        raise ValueError("carry_window=true carries attention beside the memory: set config.ttt.persistent_states.")
    if args.state_reset_probability and not carries_memory and not args.carry_window:
        raise ValueError(f"state_reset_probability={args.state_reset_probability!r}, but no lane carries anything.")
    if args.inner_lr_warmup_steps and (config.ttt is None or config.ttt.learner not in ("ttt", "in_place")):
        raise ValueError(
            f"inner_lr_warmup_steps={args.inner_lr_warmup_steps!r}, but the model has no learner with inner steps."
        )


class MoshiTTTTrainer(ExactTrainer):
    """Trains a `MoshiTTTForConditionalGeneration`, with or without adapters, on segments of codes.

    Args:
        order: `"shuffled"` or `"lanes"`; the memory is carried along lanes where the model says `persistent_states`.
        stage_steps: of `StagedSegments`, the steps of each stage, None for the last.
        course: settings that are saved in every checkpoint (`training/resumption.py`).
        options: of transformers' Trainer, such as `eval_dataset`, a `SegmentDataset`, and `compute_metrics`.

    Raises:
        ValueError: memory or window are to be carried without lanes, what the model has none of is asked for, or more
            is trained than adapters hold.
    """

    if TYPE_CHECKING:  # transformers declares these wider than they are here
        model: Any
        args: Any
        optimizer: Any

    def __init__(
        self,
        model: "MoshiTTTForConditionalGeneration",
        args: MoshiTTTTrainingArguments,
        train_dataset: SegmentDataset | StagedSegments,
        data_collator: MoshiTTTCollator,
        order: str = "shuffled",
        stage_steps: Sequence[int | None] = (),
        course: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        _require_what_is_there(model.config, args, order)
        if isinstance(model, PeftModel):
            require_whole_adapter(model)
        self.segments = train_dataset
        self.order, self.stage_steps = order, stage_steps
        self.course = course or {}
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=data_collator, **options)
        self.lanes = None
        if _carries_memory(model.config) or args.carry_window:
            init_state = partial(model.init_state, window=args.carry_window)
            probability, rank = args.state_reset_probability, args.process_index
            self.lanes = LaneMemory(init_state, model.config, probability, args.seed, rank)
        self.window, self.held_out = LogWindow(model.config.num_codebooks), LogWindow(model.config.num_codebooks)
        self.throughput = Throughput(flops_per_frame(model), args.device)
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []
        self._before_step: tuple[Any, ...] = ()
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(ShortProgressCallback)

    @property
    def exit_code(self) -> int:
        """Of the process: 0, or 143 after SIGTERM."""
        return EXIT_CODE_TERMINATED if self.stop_requests.was_terminated else 0

    def config_values(self) -> dict[str, Any]:
        """The model's configuration by key, without codec and tokenizer, which are the data's."""
        values = self.model.config.own_values()
        return {key: value for key, value in values.items() if not key.startswith(("codec", "text_tokenizer"))}

    # Data

    def stages(self) -> list[SegmentDataset]:
        """The segments of each stage of lengths."""
        return list(self.segments.stages) if isinstance(self.segments, StagedSegments) else [self.segments]

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        rows = self.args.per_device_train_batch_size * self.args.world_size
        rows_of_step = rows * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed

        def make(segments: SegmentDataset) -> LaneSampler | ShuffledSampler:
            if self.order == "lanes":
                return LaneSampler(segments, rows, seed)
            return ShuffledSampler(segments, rows_of_step, seed)

        if isinstance(self.segments, StagedSegments):
            return staged_sampler(self.segments, make, self.stage_steps, self.args.max_steps, rows_of_step)
        return make(self.segments)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler:
        return InOrderSampler(eval_dataset, self.args.eval_batch_size * self.args.world_size if self._is_shared else 1)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' batches of a step of training, which begins here."""
        self._begin_step()
        return super().get_batch_samples(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """The weights of text and audio targets in a step, `[2]`, over all its batches and processes."""
        weights = [batch["weights"].double() for batch in batch_samples]
        text, audio = (sum(float(w[:, rows].sum()) for w in weights) for rows in (slice(0, 1), slice(1, None)))
        wants_stop = float(self.stop_requests.has_signal)
        totals = self._sum_over_processes(torch.tensor([text, audio, wants_stop], dtype=torch.float64, device=device))
        self.stop_requests.is_agreed = bool(totals[2] > 0)
        return totals[:2]

    @property
    def _is_shared(self) -> bool:
        return self.args.world_size > 1

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        return self.accelerator.reduce(tensor, "sum") if self._is_shared else tensor

    # Loss

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One batch's part of the loss of a step; in training and where memory is carried, from its lanes.

        Args:
            num_items_in_batch: the step's weights of text and audio targets; None for the mean of this batch.
        """
        lanes = self.lanes if model.training else None
        state = lanes.state_for(inputs) if lanes else None
        diagnostics = model.training and self._is_logged_step()
        scale = self.inner_lr_scale() if model.training else 1.0
        outputs = model(
            codes=inputs["codes"],
            labels=inputs["labels"],
            state=state,
            diagnostics=diagnostics,
            inner_lr_scale=scale,
            return_logits=return_outputs or not model.training,
        )
        if lanes:
            lanes.keep(outputs.state, inputs)
        loss = outputs.loss if num_items_in_batch is None else self._share_of_step(outputs, inputs, num_items_in_batch)
        if model.training:
            self._note(outputs, inputs)
            self._seen.append((inputs["recording"], inputs["start_frame"], loss.detach()))
        else:
            self.held_out.add_losses(outputs.losses, inputs["weights"])
        self.loss_is_scaled_for_ga = True
        return (loss, outputs) if return_outputs else loss

    def inner_lr_scale(self) -> float:
        """What the inner rate is multiplied by in the step under way: it rises to 1 over the warm-up."""
        steps = self.args.inner_lr_warmup_steps
        return min(1.0, (self.state.global_step + 1) / steps) if steps else 1.0

    def _share_of_step(self, outputs: "MoshiTTTOutput", inputs: dict[str, Any], totals: Tensor) -> Tensor:
        """So scaled that the mean over processes, which DDP and FSDP take of gradients, is the step's loss."""
        weighted = outputs.losses * inputs["weights"]
        text, audio = weighted[:, :1].sum(), weighted[:, 1:].sum()
        text_total, audio_total = torch.where(totals > 0, totals, 1.0).float()
        share = self.model.config.text_loss_weight * text / text_total + audio / audio_total
        return share * self.args.world_size

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """transformers' evaluation; the random numbers that loading data draws are given back."""
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """transformers' loop, with the losses by stream as means over all targets by their weights."""
        self.held_out.clear()
        output: Any = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        means = self.held_out.means(self._sum_over_processes)
        loss = self.model.config.text_loss_weight * means.get("text_loss", 0.0) + means["audio_loss"]
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in {"loss": loss, **means}.items()})
        return output

    # Logs

    def _is_logged_step(self) -> bool:
        """Whether the step under way ends with a log; diagnostics are computed only then."""
        step, strategy = self.state.global_step + 1, self.args.logging_strategy
        if step == 1 and self.args.logging_first_step:
            return True
        if strategy == IntervalStrategy.EPOCH:
            return step % self.steps_per_epoch == 0 or step == self.state.max_steps
        return strategy == IntervalStrategy.STEPS and step % self.state.logging_steps == 0

    def _note(self, outputs: "MoshiTTTOutput", inputs: dict[str, Any]) -> None:
        assert outputs.losses is not None
        self.window.add_losses(outputs.losses, inputs["weights"])
        self.throughput.add(inputs["lengths"])
        counts = present_frames(inputs["codes"]).any()
        layers = self.model.config.ttt_layer_indices
        for layer, name, value in means_by_layer(layers, outputs.diagnostics, inputs["codes"]):
            self.window.add(log_key(layer, name), torch.stack([torch.where(counts, value, 0.0), counts.float()]))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the loss of each stream since the last log, this step's memories, each group's rate and the speed."""
        if "loss" in logs:
            processes, left = self.args.world_size, self.state.max_steps - self.state.global_step
            speed = self.throughput.report(self._sum_over_processes, self.args.device, processes, left)
            groups = zip(self.optimizer.param_groups, self._rates, strict=True)
            rates = {f"learning_rate/{group['name']}": rate for group, rate in groups}
            if self.args.inner_lr_warmup_steps:
                rates["inner_lr_scale"] = self._inner_lr_scale
            logs = {**logs, **self.window.means(self._sum_over_processes), **rates, **speed}
            self.window.clear()
        super().log(logs, start_time)

    # Processes

    def create_accelerator_and_postprocess(self) -> None:
        """Refuses FSDP that would not be one."""
        super().create_accelerator_and_postprocess()
        require_what_was_asked(bool(self.args.fsdp), self.is_fsdp_enabled)
        if self.is_fsdp_enabled:
            set_up_plugin(self.accelerator.state.fsdp_plugin, self.accelerator.mixed_precision)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.is_fsdp_enabled:
            state, mesh = self.accelerator.state, getattr(self.accelerator, "torch_device_mesh", None)
            if mesh is not None:
                mesh = mesh[tuple(self.accelerator.parallelism_config.fsdp_dim_names)]
            shard_learners(self.model, state.fsdp_plugin, mesh)
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_fsdp_enabled:
            require_every_parameter(self.optimizer, self.model)
        return prepared

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """transformers' schedule, made once the model is sharded and before a checkpoint is loaded."""
        if self.is_fsdp_enabled:
            take_sharded_parameters(self.optimizer, parameter_groups(self.model, self.args))
        return super().create_scheduler(num_training_steps, optimizer)

    # Steps

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer over the groups of `parameter_groups`."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = kind(parameter_groups(self.model, self.args), **options)
        return self.optimizer

    def _begin_step(self) -> None:
        self._seen = []
        self.throughput.begin_step()
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._inner_lr_scale = self.inner_lr_scale()
        self._before_step = (self.lanes and self.lanes.lanes, dict(self.window.sums), self._tr_loss.clone())

    def forget_step(self) -> None:
        """Memory and sums as they were before the step."""
        lanes, self.window.sums, self._tr_loss = self._before_step
        if self.lanes:
            self.lanes.lanes = lanes

    def describe_step(self) -> str:
        """The segments of the step's batches whose loss is not finite, or all where every loss is."""
        wrong = [seen for seen in self._seen if not torch.isfinite(seen[2])] or self._seen
        segments = [
            f"recording {recording} at frame {start}"
            for recordings, starts, _ in wrong
            for recording, start in zip(recordings.tolist(), starts.tolist(), strict=True)
            if recording >= 0
        ]
        return f"Batch: {', '.join(segments)}."

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if isinstance(self.model, PeftModel) and self.args.should_save:
            config: Any = self.model.get_base_model().config
            config.save_pretrained(output_dir)  # an adapter's weights do not say which TTT layers they belong to

    def save_more(self, folder: Path) -> None:
        """The settings, the memory of the lanes, and what is averaged until the next log."""
        if self.args.should_save:
            save_settings(folder, self.course, self.config_values())
        window = {**self.window.tensors(), "tr_loss": self._tr_loss.cpu()}
        window["last_logged_step"] = torch.tensor(self._globalstep_last_logged)
        save_file(window, folder / f"log_window-{self.args.process_index}.safetensors")
        if self.lanes:
            self.lanes.save(folder)

    def load_more(self, folder: Path) -> None:
        """Goes on with them."""
        windows = sorted(folder.glob("log_window-*.safetensors"))
        if len(windows) == self.args.world_size:
            window = load_file(folder / f"log_window-{self.args.process_index}.safetensors")
            self._globalstep_last_logged = int(window.pop("last_logged_step"))
            self._tr_loss = window.pop("tr_loss").to(self.args.device)
            self.window.load(window, self.args.device)
        if self.lanes:
            self.lanes.load(folder)
        self.throughput.start()
