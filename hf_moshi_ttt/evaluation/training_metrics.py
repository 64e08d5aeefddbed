"""The long-context numbers while a model trains, in both forms that transformers' Trainer knows.

As metrics of its own evaluation, where every row of the evaluation set is a whole recording. Trainer joins labels of
different lengths neither over batches (`eval_do_concat_batches=False`, the default of `MoshiTTTTrainingArguments`) nor
over processes (use one, or the callback):

    metrics = LongContextMetrics(window_frames=model.config.sliding_window)
    Trainer(..., compute_metrics=metrics, preprocess_logits_for_metrics=metrics.preprocess)

As a callback that streams recordings every N steps, of any length and several processes sharing them:

    trainer.add_callback(LongContextCallback(trainer, recordings, every_steps=500))
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..transformer.losses import code_losses
from .long_context import LongContextOutput, evaluate_long_context
from .long_context_settings import LongContextSettings
from .loss_curve import long_context_numbers

PREFIX = "eval_"
PADDING = -100.0  # Trainer's own, between recordings of different lengths


class LongContextMetrics:
    """`compute_metrics` of transformers' Trainer.

    Args:
        window_frames: frames that attention sees.
        settings: `positions_frames` and `bin_frames` are read.
    """

    def __init__(self, window_frames: int, settings: LongContextSettings | None = None) -> None:
        self.window_frames = window_frames
        self.settings = settings or LongContextSettings()

    def preprocess(self, logits: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Losses by position, `[B, T]`, means over codebooks; nothing else of a batch is kept.

        Args:
            logits: the model's outputs after the loss, among them audio logits `[B, Q, T, V]`.
            labels: `[B, K, T]`; negative where there is none.

        Returns:
            NaN where a codebook has no prediction, -100 after a recording's end.
        """
        (audio_logits,) = (output for output in logits if isinstance(output, Tensor) and output.dim() == 4)
        own = labels[:, 1 : 1 + audio_logits.shape[1]]
        losses = code_losses(audio_logits, own).masked_fill(own < 0, torch.nan).mean(1)
        is_frame = (own >= 0).any(1)
        delay_frames = int(audio_logits[0, :, :, 0].isnan().any(0).sum())
        has_next = F.pad(is_frame, (0, delay_frames))[:, delay_frames:]
        return losses.masked_fill(~has_next, torch.nan).masked_fill(~is_frame, PADDING)

    def __call__(self, predictions: EvalPrediction) -> dict[str, Any]:
        """The numbers; intervals as two of them, `<key>_low` and `<key>_high`."""
        found = predictions.predictions
        batches = found if isinstance(found, list) else [found]
        losses = [_without_padding(losses_T) for batch in batches for losses_T in np.asarray(batch)]
        settings = self.settings
        return plain_numbers(
            long_context_numbers(losses, self.window_frames, settings.bin_frames, settings.positions_frames)
        )


def _without_padding(losses_T: np.ndarray) -> np.ndarray:
    frames = np.flatnonzero(losses_T != PADDING)
    return losses_T[: frames[-1] + 1] if len(frames) else losses_T[:0]


def plain_numbers(results: dict[str, Any]) -> dict[str, float]:
    """The `librilight_*` numbers of results as loggers take them: intervals as `<key>_low` and `<key>_high`."""
    numbers: dict[str, float] = {}
    for key, value in results.items():
        if key.startswith("librilight_") and key.endswith("_interval"):
            name = key.removesuffix("_interval")
            numbers |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif key.startswith("librilight_"):
            numbers[key] = value
    return numbers


class LongContextCallback(TrainerCallback):
    """Evaluates the model that is trained every `every_steps` steps and logs `eval_librilight_*`.

    The training does not change: parameters, random numbers, the order of data and carried memories stay the same.

    Args:
        trainer: whose log takes the numbers.
        recordings: codes `[Q, T]` or `[K, T]` each.
        silence_codes: `[Q]`, needed where the user's rows are silence.
        report: called with the trainer, what was found, and the settings.

    Raises:
        ValueError: `every_steps` below 1.
    """

    def __init__(
        self,
        trainer: Trainer,
        recordings: Sequence[np.ndarray],
        every_steps: int,
        settings: LongContextSettings | None = None,
        silence_codes: Sequence[int] | None = None,
        report: Callable[[Trainer, LongContextOutput, LongContextSettings], Any] | None = None,
    ) -> None:
        if every_steps < 1:
            raise ValueError(f"every_steps={every_steps}, but it must be at least 1.")
        self.trainer = trainer
        self.recordings = recordings
        self.every_steps = every_steps
        self.settings = settings or LongContextSettings(check_frames=0)
        self.silence_codes = silence_codes
        self.report = report

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """transformers' hook."""
        if state.global_step % self.every_steps == 0:
            model: Any = self.trainer.model
            output = evaluate_long_context(
                model, self.recordings, self.settings, silence_codes=self.silence_codes, progress=False
            )
            numbers = plain_numbers(output.results)
            should_log = control.should_log
            self.trainer.log({f"{PREFIX}{key}": value for key, value in numbers.items()})
            control.should_log = should_log  # Trainer takes a log for the one that this step is due
            if self.report is not None:
                self.report(self.trainer, output, self.settings)
        return control
