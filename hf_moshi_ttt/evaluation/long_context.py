"""`evaluate_long_context`: losses over whole recordings, and the published numbers with their intervals.

A recording is Moshi's own stream, teacher-forced; its text and user rows are those that the model was trained with
unless the settings say otherwise. Several processes share the recordings, finished ones are not evaluated again, and
nothing of the model, of its mode or of any random state is changed.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.collator import MoshiTTTCollator
from ..special_ids import FREE_ID
from .long_context_settings import LongContextSettings
from .loss_curve import bin_losses, codebook_curves, curve, headline, long_context_numbers, weighted
from .recording_losses import RecordingReader

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration


@dataclass
class LongContextOutput:
    """What an evaluation gives.

    Args:
        losses: float32 `[Q, T]` a recording, in nats; NaN where there is no prediction.
        results: the numbers, as `results.schema.json` describes one model.
    """

    losses: list[np.ndarray]
    results: dict[str, Any]

    @property
    def headlines(self) -> list[np.ndarray]:
        """The mean over codebooks at each frame, `[T]` a recording."""
        return [headline(losses) for losses in self.losses]


def evaluate_long_context(
    model: "MoshiTTTForConditionalGeneration",
    recordings: Sequence[np.ndarray],
    settings: LongContextSettings | None = None,
    *,
    silence_codes: Sequence[int] | None = None,
    keep_in: str | Path | None = None,
    progress: bool = True,
) -> LongContextOutput:
    """Losses of recordings by position, and the long-context numbers.

    Args:
        recordings: codes `[Q, T]` of one speaker or `[K, T]` of a conversation.
        silence_codes: `[Q]`, one frame of digital silence; needed where the user's rows are silence.
        keep_in: folder that keeps the losses of finished recordings for a run that continues.
        progress: whether to show a progress bar.

    Raises:
        ValueError: no recordings, or codes that are not the model's.
        torch.OutOfMemoryError: with the settings that need less memory.
    """
    settings = settings or LongContextSettings()
    with evaluation_mode(model, settings.memory):
        reader = RecordingReader(model, settings, progress)
        losses = reader.losses(frame_recordings(model, recordings, settings, silence_codes), keep_in)
    return LongContextOutput(losses, {**summarize(model, losses, settings), "run": reader.record()})


@contextmanager
def evaluation_mode(model: torch.nn.Module, memory: str = "on") -> Iterator[None]:
    """The model in evaluation mode, its memories as `memory` says; all of it is undone afterwards.

    Raises:
        ValueError: `memory="static"` for a model whose memories take no inner steps anyway.
    """
    modes = {module: module.training for module in model.modules()}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    hooks = _memory_hooks(model, memory)
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            model.eval()
            yield
    finally:
        for module, was_training in modes.items():
            module.training = was_training
        for hook in hooks:
            hook.remove()


def _memory_hooks(model: torch.nn.Module, memory: str) -> list[Any]:
    """Forward hooks: "off" makes the gate 0, "static" the inner learning rates (-inf before their sigmoid)."""
    changed = {"off": ("ttt_gate", 0.0), "static": ("ttt.rate_proj", -torch.inf)}
    if memory not in changed:
        return []
    config: Any = model.config
    learner = None if config.ttt is None else config.ttt.learner
    if memory == "static" and learner != "ttt":
        raise ValueError(f"memory='static' takes the inner steps away, but the model has ttt.learner={learner!r}.")
    suffix, value = changed[memory]
    modules = [module for name, module in model.named_modules() if name.endswith(suffix)]
    return [module.register_forward_hook(lambda *arguments: torch.full_like(arguments[2], value)) for module in modules]


def frame_recordings(
    model: "MoshiTTTForConditionalGeneration",
    recordings: Sequence[np.ndarray],
    settings: LongContextSettings,
    silence_codes: Sequence[int] | None,
) -> list[np.ndarray]:
    """All rows of each recording, int64 `[K, T]`; the text row is -2 where the model chooses it.

    Raises:
        ValueError: no recordings, or codes that are not the model's.
    """
    if getattr(recordings, "ndim", 3) != 3:
        raise ValueError(
            f"recordings is one array {list(np.shape(recordings))}, but must be a list of codes [Q, T] or [K, T]: "
            "[codes] for one recording."
        )
    if len(recordings) == 0:
        raise ValueError("There are no recordings to evaluate.")
    config: Any = copy.deepcopy(model.config)
    config.user_stream = settings.user_stream or config.user_stream
    if settings.text_stream not in (None, "predicted"):
        config.text_stream = settings.text_stream
    collator = MoshiTTTCollator(config, silence_codes)
    framed = [collator.frame_codes(np.array(codes))[0] for codes in recordings]
    for codes_KT, given in zip(framed, recordings, strict=True):
        if settings.text_stream == "predicted":
            codes_KT[0] = FREE_ID
        elif settings.text_stream is not None and len(given) == config.num_streams:
            raise ValueError(
                f"text_stream={settings.text_stream!r}, but a recording brings its own text ([{len(given)}, T]): "
                "leave text_stream out, or choose 'predicted'."
            )
    return framed


def summarize(
    model: "MoshiTTTForConditionalGeneration", losses_RQT: Sequence[np.ndarray], settings: LongContextSettings
) -> dict[str, Any]:
    """The numbers and curves of one model."""
    config, bin_frames = model.config, settings.bin_frames
    window, positions = config.sliding_window, settings.positions_frames
    weights = [float(config.first_codebook_weight_multiplier)] + [1.0] * (config.num_codebooks - 1)
    headlines = [headline(losses) for losses in losses_RQT]
    training = [weighted(losses, weights) for losses in losses_RQT]
    codebooks = [
        long_context_numbers([losses[q] for losses in losses_RQT], window, bin_frames, positions)
        for q in range(config.num_codebooks)
    ]
    return {
        **long_context_numbers(headlines, window, bin_frames, positions),
        "librilight_frames": sum(losses.shape[1] for losses in losses_RQT),
        "bin_frames": bin_frames,
        "curve": curve(bin_losses(headlines, bin_frames), bin_frames),
        "with_training_weights": {
            "weights": weights,
            **long_context_numbers(training, window, bin_frames, positions),
        },
        "by_codebook": codebooks,
        "codebook_curves": codebook_curves(losses_RQT, bin_frames),
    }


def describe_model(model: "MoshiTTTForConditionalGeneration", settings: LongContextSettings) -> dict[str, Any]:
    """What a score depends on: it is printed with every score."""
    config = model.config
    return {
        "codec": config.codec,
        "text_stream": settings.text_stream or config.text_stream,
        "user_stream": settings.user_stream or config.user_stream,
        "sliding_window": config.sliding_window,
        "dtype": str(model.dtype).removeprefix("torch."),
        "ttt": None if config.ttt is None else config.ttt.own_values(),
        "num_parameters": model.num_parameters(),
    }
