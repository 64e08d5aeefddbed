"""One run of a recall task: an arm's model, trained from scratch by `MoshiTTTTrainer`, and its losses by hearing."""

import hashlib
import time
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from datasets import Features, Value
from datasets import List as ListFeature
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from ..data.collator import MoshiTTTCollator
from ..data.segments import SegmentDataset
from ..data.tables import dataset_of
from ..evaluation.loss_curve import mean_over_recordings
from ..memory.recall_tasks import OTHER, UNSCORED, NaturalTask, RecallBatch, RecallTask, with_streams
from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from ..rivals.configuration_end_to_end import EndToEndConfig
from .arguments import MoshiTTTTrainingArguments
from .length_stages import StagedSegments
from .non_finite import NonFiniteError
from .parameter_groups import count_parameters
from .recall_copying import mix_with_copies
from .recall_setup import COPY, RecallSetup, arm_config, parse_arm
from .recall_size import RecallSize
from .trainer import MoshiTTTTrainer

if TYPE_CHECKING:
    from ..rivals.end_to_end import EndToEndMoshi

RecallModel: TypeAlias = "MoshiTTTForConditionalGeneration | EndToEndMoshi"
_FEATURES = Features({"codes": ListFeature(ListFeature(Value("int16"))), "frames": Value("int32")})
_TRAIN_SEED, _TEST_SEED = 100, 70
_GATE_LR_MULTIPLIER = 3.0
_ROWS_AT_A_TIME = 16


class _CountSteps(TrainerCallback):
    """Says when a step is done."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self.on_step = on_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """transformers' hook."""
        self.on_step()


class SeenFrames:
    """A collator that counts the frames of its batches, and hashes their codes in order."""

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collator, self.frames, self.sha256 = collator, 0, hashlib.sha256()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """What the collator gives."""
        batch = self.collator(rows)
        codes_BKT = batch["codes"]
        self.frames += codes_BKT.shape[0] * codes_BKT.shape[2]
        self.sha256.update(codes_BKT.numpy().tobytes())
        return batch


def run_arm(setup: RecallSetup, arm: str, seed: int, on_step: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Trains and tests an arm.

    Args:
        seed: of the model's weights and of what it is trained on; the tests are the same for all.
        on_step: called after each step.

    Returns:
        `arm`, `seed`, `parameters`, `train_frames` and `train_sha256` (number and codes of the frames seen, in order),
        `sec`, `cpu_sec` of this thread, `train_losses` (`[step, loss]`) and `tests`: by name what `score` gives.

    Raises:
        NonFiniteError: the training or a test gave NaN or infinity.
        SystemExit: SIGTERM stopped the training; what is trained in part says nothing.
    """
    start, cpu_start = time.monotonic(), time.thread_time()
    set_seed(seed)
    model = make_model(setup, arm)
    with TemporaryDirectory() as folder:  # where SIGTERM has the Trainer save
        trainer = make_trainer(model, setup, seed, folder)
        seen = trainer.data_collator = SeenFrames(trainer.data_collator)
        trainer.add_callback(_CountSteps(on_step))
        trainer.train()
    if trainer.state.global_step < setup.size.steps:
        raise SystemExit(trainer.exit_code)
    model.eval()
    tests = {}
    for name, task in setup.tests.items():
        batch = draw_test(task, setup.size.test_rows)
        tests[name] = score(model, batch, task.hearings, copies=parse_arm(arm)[0] == COPY)
    history = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {
        "arm": arm, "seed": seed, "parameters": count_parameters(model), "train_frames": seen.frames,
        "train_sha256": seen.sha256.hexdigest(), "sec": time.monotonic() - start,
        "cpu_sec": time.thread_time() - cpu_start, "train_losses": history, "tests": tests,
    }  # fmt: skip


def make_model(setup: RecallSetup, arm: str) -> RecallModel:
    """The fresh model of an arm."""
    from ..rivals.end_to_end import EndToEndMoshi

    config = arm_config(setup, arm)
    return EndToEndMoshi(config) if isinstance(config, EndToEndConfig) else MoshiTTTForConditionalGeneration(config)


def draw_test(task: RecallTask, rows: int) -> RecallBatch:
    """The sequences of a test, the same for all arms and seeds; the first ones are the same however many there are."""
    counts = [min(_ROWS_AT_A_TIME, rows - first) for first in range(0, rows, _ROWS_AT_A_TIME)]
    seeds = [(_TEST_SEED + number) % _TRAIN_SEED for number in range(len(counts))]  # those of training begin there
    batches = [task.draw(count, torch.Generator().manual_seed(seed)) for count, seed in zip(counts, seeds, strict=True)]
    numbered = [b.recording_BT for b in batches if b.recording_BT is not None]
    return RecallBatch(
        torch.cat([b.codes_BKT for b in batches]),
        torch.cat([b.hearing_BT for b in batches]),
        torch.cat(numbered) if numbered else None,
    )


def make_trainer(model: RecallModel, setup: RecallSetup, seed: int, folder: str) -> MoshiTTTTrainer:
    """A trainer on as many sequences as its steps take, each seen once; in lanes on recordings from start to end."""
    size, generator = setup.size, torch.Generator().manual_seed(_TRAIN_SEED + seed)
    steps = [size.steps // len(setup.stages)] * (len(setup.stages) - 1)
    steps.append(size.steps - sum(steps))
    segments = [
        _in_lanes(task)
        if size.lanes and isinstance(task, NaturalTask)
        else _segments(task, count * size.batch_size, generator)
        for task, count in zip(setup.stages, steps, strict=True)
    ]
    dataset = StagedSegments(segments) if len(segments) > 1 else segments[0]
    arguments = training_arguments(size, seed, folder, setup.device)
    collator = MoshiTTTCollator(model.config)
    any_model: Any = model  # the trainer asks of it what both have
    order = "lanes" if size.lanes else "shuffled"
    trainer = MoshiTTTTrainer(any_model, arguments, dataset, collator, order, stage_steps=[*steps[:-1], None])
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_arguments(size: RecallSize, seed: int, folder: str, device: str = "cpu") -> MoshiTTTTrainingArguments:
    """The schedule: a short warm-up, then a cosine; TTT weights at the model's rate and gates faster."""
    return MoshiTTTTrainingArguments(
        output_dir=folder, max_steps=size.steps, per_device_train_batch_size=size.batch_size, seed=seed,
        learning_rate=size.learning_rate, weight_decay=size.weight_decay, warmup_steps=size.warmup_steps,
        lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": size.last_rate},
        ttt_lr_multiplier=1.0, gate_lr_multiplier=_GATE_LR_MULTIPLIER, max_grad_norm=1.0,
        logging_steps=max(1, size.steps // 20), save_strategy="no", report_to="none", use_cpu=device == "cpu",
        disable_tqdm=True,
    )  # fmt: skip


def _segments(task: RecallTask, rows: int, generator: torch.Generator) -> SegmentDataset:
    return _cut(list(task.draw(rows, generator).codes_BKT), task.frames)


def _in_lanes(task: NaturalTask) -> SegmentDataset:
    """All pieces of whole recordings."""
    return _cut([with_streams(codes_QT[None])[0] for codes_QT in task.recordings], task.frames)


def _cut(recordings: list[torch.Tensor], frames: int) -> SegmentDataset:
    """Segments of recordings `[K, T]`."""
    rows = ({"codes": codes_KT.tolist(), "frames": codes_KT.shape[1]} for codes_KT in recordings)
    return SegmentDataset(dataset_of(rows, _FEATURES), frames)


@torch.no_grad()
def score(model: RecallModel, batch: RecallBatch, hearings: int, copies: bool = False) -> dict[str, Any]:
    """Losses in nats, means over codebooks.

    Args:
        copies: whether predictions are mixed with copies of what was heard.

    Returns:
        `hearings`: for each the mean with its bootstrap interval over recordings; `other`: the same of the other
        frames, None where there are none; `hearing_rows` and `other_rows`: their means in each sequence, for paired
        differences; `hearing_recordings` and `other_recordings`: the number of the recording that each of these comes
        from, None for random frames; `positions`: the mean over sequences at each frame, None where there is no
        prediction.

    Raises:
        NonFiniteError: a loss that is counted is NaN or infinite, so that a mean would hide it.
    """
    own = slice(1, 1 + model.config.num_codebooks)
    parts = batch.codes_BKT.to(model.device).split(_ROWS_AT_A_TIME)
    losses_BQT = torch.cat([model(codes=codes, labels=codes).losses[:, own].cpu() for codes in parts])
    if copies:
        losses_BQT = mix_with_copies(losses_BQT, batch.codes_BKT[:, own], batch.hearing_BT != UNSCORED)
    losses_BT = losses_BQT.mean(1)
    if not torch.isfinite(losses_BT[batch.hearing_BT != UNSCORED]).all():
        raise NonFiniteError("A loss of a test is NaN or infinite after training.")
    places = [batch.hearing_BT == number for number in (OTHER, *range(1, hearings + 1))]
    other, *heard = (_row_means(losses_BT, place_BT) for place_BT in places)
    other_from, *heard_from = (_recordings_at(batch.recording_BT, place_BT) for place_BT in places)
    return {
        "hearings": [_estimate(rows, recordings) for rows, recordings in zip(heard, heard_from, strict=True)],
        "hearing_rows": [_rounded(rows) for rows in heard],
        "hearing_recordings": heard_from,
        "other": _estimate(other, other_from),
        "other_rows": _rounded(other),
        "other_recordings": other_from,
        "positions": [round(loss, 4) if np.isfinite(loss) else None for loss in losses_BT.mean(0).tolist()],
    }


def _rounded(rows_B: np.ndarray) -> list[float] | None:
    """A loss for each sequence; None where a sequence has none."""
    return [round(loss, 6) for loss in rows_B.tolist()] if np.isfinite(rows_B).all() else None


def _row_means(losses_BT: torch.Tensor, counts_BT: torch.Tensor) -> np.ndarray:
    """The mean of each sequence, `[B]`; NaN where it has no such frame."""
    sums, counts = losses_BT.where(counts_BT, 0).sum(1), counts_BT.sum(1)
    return torch.where(counts > 0, sums / counts, torch.nan).double().numpy()


def _recordings_at(recording_BT: torch.Tensor | None, place_BT: torch.Tensor) -> list[int] | None:
    """The recording of each sequence's first frame at a place; a sequence that has none there counts as -1."""
    if recording_BT is None:
        return None
    first_B1 = place_BT.int().argmax(1, keepdim=True)
    found_B = recording_BT.gather(1, first_B1)[:, 0]
    numbers: list[int] = found_B.where(place_BT.any(1), -1).tolist()
    return numbers


def _estimate(values_B: np.ndarray, recordings_B: list[int] | None) -> dict[str, Any] | None:
    estimate = mean_over_recordings(values_B, recordings_B)
    return None if estimate is None else {"value": estimate.value, "low": estimate.low, "high": estimate.high}
