"""Loss over position in long recordings, from the exact streaming state.

A recording is Moshi's own stream, teacher-forced; its text and user rows are those the model was trained with
(`text_stream`, `user_stream` of its configuration). The recording is read in chunks with carried state, which gives the
same losses as frame by frame; memory does not grow with its length. Nothing of the model is changed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .data.collator import MoshiTTTCollator
from .losses import code_losses
from .modeling_moshi_ttt import MoshiTTTForConditionalGeneration


@torch.no_grad()
def losses_by_position(
    model: MoshiTTTForConditionalGeneration,
    recordings: Sequence[np.ndarray],
    silence_codes: Sequence[int] | None = None,
    chunk_frames: int = 500,
    batch_size: int = 4,
) -> list[np.ndarray]:
    """Cross-entropy of every codebook at every frame, float32 `[Q, T]` a recording, in nats.

    Args:
        recordings: codes `[Q, T]` of one speaker each.
        chunk_frames: frames a call; the losses do not depend on it.
        batch_size: recordings at once.

    Returns:
        NaN for the last frames of a delayed codebook, which have no prediction.
    """
    collator = MoshiTTTCollator(model.config, silence_codes)
    order = sorted(range(len(recordings)), key=lambda index: recordings[index].shape[1])
    results: dict[int, np.ndarray] = {}
    total = sum(codes.shape[1] for codes in recordings)
    was_training = model.training
    model.eval()
    with tqdm(total=total, desc="evaluate", unit="frame") as bar:
        for first in range(0, len(order), batch_size):
            group = order[first : first + batch_size]
            segments = [{"codes": recordings[i], "recording": i, "start_frame": 0} for i in group]
            codes = collator(segments)["codes"].to(model.device)
            losses = _stream_losses(model, codes, chunk_frames).cpu().numpy()
            for row, index in enumerate(group):
                length = recordings[index].shape[1]
                results[index] = _without_prediction(losses[row, :, :length], model.config.delays)
                bar.update(length)
    model.train(was_training)
    return [results[index] for index in range(len(recordings))]


def _stream_losses(model: MoshiTTTForConditionalGeneration, codes_BKT: Tensor, chunk_frames: int) -> Tensor:
    """Losses `[B, Q, T]`; a chunk's first frames give the delayed codebooks of the chunk before."""
    own = codes_BKT[:, 1 : 1 + model.config.num_codebooks]
    losses = torch.full(own.shape, torch.nan, device=codes_BKT.device)
    state = model.init_state(codes_BKT.shape[0])
    for start in range(0, codes_BKT.shape[2], chunk_frames):
        output = model(codes_BKT[:, :, start : start + chunk_frames], state=state)
        state = output.state
        here = slice(start, start + chunk_frames)
        losses[:, :, here] = code_losses(output.audio_logits, own[:, :, here])
        before = slice(max(0, start - model.config.max_delay_frames), start)
        reached = own[:, :, before]
        late = code_losses(output.late_audio_logits[:, :, model.config.max_delay_frames - reached.shape[2] :], reached)
        losses[:, :, before] = torch.where(late.isnan(), losses[:, :, before], late)
    return losses


def _without_prediction(losses_QT: np.ndarray, delays: Sequence[int]) -> np.ndarray:
    """NaN where a recording's end leaves a delayed codebook without prediction."""
    losses_QT = losses_QT.copy()
    for row, delay in enumerate(delays[1 : 1 + len(losses_QT)]):
        if delay:
            losses_QT[row, -delay:] = np.nan
    return losses_QT


def headline(losses_QT: np.ndarray) -> np.ndarray:
    """The mean over codebooks at each frame, `[T]`; NaN where a codebook has no prediction."""
    return losses_QT.mean(0)


def describe_model(model: MoshiTTTForConditionalGeneration) -> dict[str, Any]:
    """What a score depends on and is printed with."""
    config = model.config
    return {
        "codec": config.codec,
        "text_stream": config.text_stream,
        "user_stream": config.user_stream,
        "sliding_window": config.sliding_window,
        "ttt": None if config.ttt is None else config.ttt.to_dict(),
        "num_parameters": model.num_parameters(),
    }
