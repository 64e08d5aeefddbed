"""`ExactTrainer`: transformers' Trainer, made so that no step is lost and none is taken twice.

- A checkpoint is whole or not there (`checkpoint_folders.py`), and loading one is strict.
- A continued run keeps the averages since the last log, and takes no step beyond its end.
- SIGTERM saves and stops (`stop_requests.py`); so does a step that gives NaN, before it is applied.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoint_folders import CheckpointError, CheckpointFolders, what_is_wrong
from .non_finite import NonFiniteError, non_finite_gradients, non_finite_weights
from .stop_requests import StopRequests

_ADAPTER_FILE = "adapter_model.safetensors"


class ExactTrainer(Trainer):
    """A Trainer whose runs can be stopped anywhere.

    `fresh_optimizer`, set before `train`, continues a checkpoint's step, schedule and data position with an optimizer
    without moments.
    """

    fresh_optimizer = False
    steps_per_epoch = 1
    if TYPE_CHECKING:  # transformers declares these wider than they are here
        args: Any
        optimizer: Any
        lr_scheduler: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folders = CheckpointFolders(self.args.output_dir)
        self.stop_requests = StopRequests(self.args.stop_at_step)
        self.add_callback(self.stop_requests)
        self._is_saving = False
        self._saved_step: int | None = None
        self._continued_from: Path | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `train`; SIGTERM is left to whoever had it before, however it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.stop_requests.release()

    # What a subclass adds to a checkpoint, and undoes of a step that is not applied.

    def save_more(self, folder: Path) -> None:
        """Writes more of this process into a checkpoint."""

    def load_more(self, folder: Path) -> None:
        """Reads what `save_more` wrote, before the first step."""

    def forget_step(self) -> None:
        """Goes back to before the step under way, of which nothing was applied."""

    def describe_step(self) -> str:
        """Which data the step under way has seen."""
        return ""

    # Saving

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.folders.saving) if self._is_saving else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self._saved_step == self.state.global_step:
            return
        with self.folders.explained_failures(name):
            with self._saving_beside():
                super()._save_checkpoint(model, trial)
                self._name_best_checkpoint(name)
                self.save_more(self.folders.saving / name)
            if self.args.should_save:
                self.folders.publish(name)
                self.folders.rotate(self.args.save_total_limit, self.state.best_model_checkpoint)
            self.accelerator.wait_for_everyone()
        self._saved_step = self.state.global_step
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(self.folders.output_dir / name))

    @contextmanager
    def _saving_beside(self) -> Iterator[None]:
        """Everything is written into `.saving/` meanwhile; every process has written when it ends."""
        if self.args.should_save:
            self.folders.clear()
        self.accelerator.wait_for_everyone()
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False
        self.accelerator.wait_for_everyone()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        pass  # when it is whole

    def _name_best_checkpoint(self, name: str) -> None:
        """The state names this checkpoint, if it is the best so far, by where it will lie."""
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str((self.folders.output_dir / name).absolute())
            if self.args.should_save:
                self.state.save_to_json(str(self.folders.saving / name / TRAINER_STATE_NAME))

    def save_final_model(self) -> None:
        """Writes the model into `output_dir`, whole under FSDP too."""
        with self.folders.explained_failures("The final model"):
            with self._saving_beside():
                folder = str(self.folders.saving / "model")
                if self.is_fsdp_enabled:
                    self._save(folder, state_dict=self.accelerator.get_state_dict(self.model))
                else:
                    self._save(folder)
            if self.args.should_save:
                self.folders.publish_files("model")
            self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and self.is_world_process_zero():
            self._push_final_model()

    def _push_final_model(self) -> None:
        """Uploads the run's folder without its checkpoints, whatever `hub_strategy` has uploaded of them."""
        self._finish_current_push()
        HfApi(token=self.args.hub_token).upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=str(self.args.output_dir),
            commit_message="End of training",
            revision=self.args.hub_revision,
            ignore_patterns=["_*", f"{PREFIX_CHECKPOINT_DIR}-*"],
        )

    # Continuing

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        adapter = Path(resume_from_checkpoint, _ADAPTER_FILE)
        target = model or self.model
        if isinstance(target, PeftModel) and not self.is_fsdp_enabled and adapter.is_file():
            with safe_open(adapter, framework="pt") as file:
                saved = set(file.keys())
            _require_same_keys(set(get_peft_model_state_dict(target)), saved, resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        missing, unexpected = set(load_result.missing_keys), set(load_result.unexpected_keys)
        _require_same_keys(missing, unexpected, "The checkpoint")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        self._continued_from = Path(checkpoint)
        if self.fresh_optimizer:
            if not isinstance(self.lr_scheduler, LambdaLR):
                raise ValueError(
                    f"lr_scheduler_type={self.args.lr_scheduler_type.value!r} does not depend only on the step: "
                    "with reset_optimizer=true set reset_step=true too."
                )
            state = json.loads(Path(checkpoint, TRAINER_STATE_NAME).read_text(encoding="utf-8"))
            self.lr_scheduler.last_epoch, self.lr_scheduler._step_count = state["global_step"], state["global_step"] + 1
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if isinstance(self.lr_scheduler, LambdaLR):
            self._take_rates_of_schedule()

    def _take_rates_of_schedule(self) -> None:
        """The next step's rates are those of the schedule that is asked for now, which may be longer than before."""
        scheduler = self.lr_scheduler
        factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
        scheduler._last_lr = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, scheduler._last_lr, strict=True):
            group["lr"] = rate

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        position = super()._init_training_state(max_steps, steps_per_epoch, epochs, checkpoint, trial)
        self.steps_per_epoch = steps_per_epoch
        self.state.compute_steps(self.args, max_steps)  # how often to log and save is what is asked for now
        if checkpoint is not None:
            self.state.best_model_checkpoint = self._find_best_checkpoint(Path(checkpoint))
        return position

    def _find_best_checkpoint(self, checkpoint: Path) -> str | None:
        """Path of the best checkpoint so far: beside the one that is continued, or where that one says.

        Raises:
            ValueError: in neither place, though it is to be loaded in the end.
        """
        named = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["best_model_checkpoint"]
        if named is None:
            return None
        for folder in (checkpoint.parent / Path(named).name, Path(named)):
            if what_is_wrong(folder) is None:
                return str(folder.absolute())
        if self.args.load_best_model_at_end:
            raise ValueError(
                f"{checkpoint}: its run's best checkpoint, {named}, is neither there nor beside it. Put it back, or "
                "set load_best_model_at_end=false."
            )
        return None

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether it is the best so far, or is saved in any case: `save_strategy="best"` saves what this says."""
        return super()._determine_best_metric(metrics, trial) or self.control.should_save

    def _load_best_model(self) -> None:
        best = Path(str(self.state.best_model_checkpoint))
        if (problem := what_is_wrong(best)) is not None:
            raise CheckpointError(
                f"{best}: the best checkpoint cannot be loaded, {problem}. The last one is {self.folders.newest()}; to "
                "end with it, continue with load_best_model_at_end=false."
            )
        super()._load_best_model()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self._continued_from is not None:
            self.load_more(self._continued_from)
            if self._continued_from.parent.resolve() == self.folders.output_dir.resolve():
                self._saved_step = self.state.global_step
            self._continued_from = None
        if self.state.global_step >= self.state.max_steps or self.stop_requests.reached(self.state.global_step):
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    # Steps

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        return self._checked_grad_norm(model, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(model, self._checked_grad_norm(model, None) if grad_norm is None else grad_norm)

    def _checked_grad_norm(self, model: nn.Module, max_norm: float | None) -> Tensor:
        gradients = {p: p.grad for p in model.parameters() if p.grad is not None}
        norm = get_total_norm(gradients.values())
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not torch.isfinite(whole):
            self._stop_at_non_finite(model)
        if max_norm is not None:
            clip_grads_with_norm_(gradients.keys(), max_norm, norm)
        return whole

    def _stop_at_non_finite(self, model: nn.Module) -> None:
        step, seen = self.state.global_step + 1, self.describe_step()
        gradients = non_finite_gradients(model, self.args.device)
        weights = non_finite_weights(model, self.args.device)
        self.forget_step()
        if weights:
            remedy = f"These weights are not finite themselves: {_some(weights)}. No checkpoint was saved."
        elif self.state.global_step == 0:
            remedy = "It was the first step, so there is nothing to save."
        else:
            self._save_checkpoint(model, trial=None)
            remedy = f"The step before it is saved in checkpoint-{self.state.global_step}."
        raise NonFiniteError(f"Step {step} gave NaN or infinity in the gradient of {_some(gradients)}. {seen} {remedy}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _require_same_keys(own: set[str], saved: set[str], where: str) -> None:
    missing, unexpected = sorted(own - saved), sorted(saved - own)
    if missing or unexpected:
        raise ValueError(
            f"{where}: {len(missing)} weights of the model are missing ({_some(missing) or 'none'}), {len(unexpected)} "
            f"have no place in it ({_some(unexpected) or 'none'}). It was saved from another model."
        )
