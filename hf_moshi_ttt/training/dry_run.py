"""What a run would need and do: parameters, memory, steps, time, and the first batch as sound.

The memory of weights, gradients, optimizer and lanes is counted, that of activations is measured in the first of three
steps, whose time is measured too. Only the sound is written.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..codec.audio import SAMPLE_RATE_HZ, sec_from_frames
from ..codec.pretrained_codec import load_codec
from ..data.codes import decode_codes
from .parameter_groups import count_parameters, parameter_groups

_GIB = 2**30
_MEASURED_STEPS = 3
_MASTER_BYTES = 4  # of a gradient, and of each of Adam's two moments


@dataclass
class Memory:
    """Bytes of one process, and what its device has."""

    parts: dict[str, int]
    available: int
    device: str

    @property
    def fits(self) -> bool:
        """Whether all parts fit."""
        return sum(self.parts.values()) <= self.available

    def describe(self) -> str:
        """One line in GiB."""
        parts = " + ".join(f"{name} {size / _GIB:.2f}" for name, size in self.parts.items())
        total = sum(self.parts.values()) / _GIB
        verdict = "" if self.fits else "  TOO MUCH: use more GPUs with FSDP, activation_checkpointing or fewer rows"
        return f"{parts} = {total:.2f} GiB of {self.available / _GIB:.2f} free on {self.device}{verdict}"


def static_memory(model: Any, args: Any, shards: int, with_window: bool) -> Memory:
    """What a process holds besides activations.

    Args:
        shards: processes that share a model.
        with_window: whether lanes carry the attention window.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    adam = 2 * _MASTER_BYTES * trained if "adam" in str(getattr(args.optim, "value", args.optim)) else 0
    parts = {
        "weights": sum(p.nbytes for p in model.parameters()),
        "gradients": _MASTER_BYTES * trained,
        "moments": adam,
    }
    parts = {name: size // shards for name, size in parts.items()}
    config = model.config
    if with_window or (config.ttt is not None and config.ttt.persistent_states):
        rows = args.per_device_train_batch_size
        parts["lanes"] = model.init_state(rows, window=with_window, device="meta").num_bytes()
    available, device = _available(args.device)
    return Memory(parts, available, device)


def _available(device: torch.device) -> tuple[int, str]:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], torch.cuda.get_device_name(device)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine"


def describe_model(model: nn.Module, args: Any) -> list[str]:
    """Parameters: all, trained, and of each group of the optimizer with its rate."""
    groups = parameter_groups(model, args)
    trained, total = sum(p.numel() for group in groups for p in group["params"]), count_parameters(model)
    lines = [f"{total:,} parameters, {trained:,} trained ({trained / total:.2%}), {total - trained:,} frozen"]
    for group in groups:
        count = sum(p.numel() for p in group["params"])
        lines.append(f"{group['name']}: {count:,} at rate {group['lr']:g}, weight decay {group['weight_decay']:g}")
    return lines


def describe_steps(segments: list[Any], stage_steps: list[int | None], args: Any) -> list[str]:
    """Segments, steps an epoch, and frames and codes a step, of each stage."""
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    lines = []
    for stage, steps in zip(segments, stage_steps, strict=True):
        seconds = sec_from_frames(stage.segment_frames)
        an_epoch = -(-len(stage) // rows)
        lines.append(
            f"{len(stage):,} segments of up to {seconds:g} s ({stage.dropped_frames} frames left out); "
            f"{rows} rows a step, {an_epoch:,} steps an epoch, {rows * stage.segment_frames:,} frames and "
            f"{rows * stage.segment_frames * 17:,} codes a step" + (f", for {steps} steps" if steps else "")
        )
    return lines


def write_first_batch(codes_KT: np.ndarray, num_codebooks: int, codec_name: str, path: Path) -> str:
    """The first row of a batch as sound: left what Moshi says, right what the user says. Returns a line to print.

    Args:
        codes_KT: int64, -1 where a code is absent; such frames are left out.
    """
    try:
        codec = load_codec(codec_name)
    except (OSError, ValueError) as error:
        return f"not decoded: codec {codec_name!r} cannot be loaded ({error})"
    present = codes_KT[:, (codes_KT[1 : 1 + num_codebooks] >= 0).all(0)]
    moshi, user = present[1 : 1 + num_codebooks], present[1 + num_codebooks :]
    channels = [decode_codes(codec, rows) if (rows >= 0).all() else np.zeros(0) for rows in (moshi, user)]
    longest = max(map(len, channels))
    samples = np.stack([np.pad(channel, (0, longest - len(channel))) for channel in channels], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE_HZ)
    return f"{path} ({longest / SAMPLE_RATE_HZ:.1f} s; left Moshi, right the user)"


@dataclass
class MeasuredSteps(TrainerCallback):
    """Stops after three steps and knows how long each took and what the first one kept for its backward pass."""

    seconds: list[float] = field(default_factory=list)
    activations: int = 0
    _began: float = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Looks at the clock."""
        self._began = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Looks again."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.monotonic() - self._began)
        control.should_training_stop = len(self.seconds) == _MEASURED_STEPS
        return control

    @contextmanager
    def watched(self, weights: list[Tensor]) -> Iterator[None]:
        """Counts the bytes that a forward pass keeps, each storage once, without the weights."""
        known = {weight.untyped_storage().data_ptr() for weight in weights}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                known.add(storage.data_ptr())
                self.activations += storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield


def measure(trainer: Any) -> MeasuredSteps:
    """Three steps of the trainer, of which nothing is kept."""
    measured = MeasuredSteps()
    trainer.add_callback(measured)
    compute_loss: Callable[..., Any] = trainer.compute_loss

    def watched_loss(*args: Any, **kwargs: Any) -> Any:
        if measured.activations:
            return compute_loss(*args, **kwargs)
        with measured.watched(list(trainer.model.parameters())):
            return compute_loss(*args, **kwargs)

    trainer.compute_loss = watched_loss
    trainer.train()
    return measured


def describe_time(measured: MeasuredSteps, frames_per_step: int, max_steps: int) -> str:
    """Speed and expected time from the steps after the first, which also warms up."""
    step_sec = sum(measured.seconds[1:]) / (len(measured.seconds) - 1)
    parts = ", ".join(f"{seconds:.2f}" for seconds in measured.seconds)
    minutes = round(max_steps * step_sec / 60)
    return (
        f"steps of {parts} s: {frames_per_step / step_sec:,.0f} frames/s, {max_steps:,} steps in {minutes // 60} h "
        f"{minutes % 60} min"
    )
