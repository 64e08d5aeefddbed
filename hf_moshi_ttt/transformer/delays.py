"""Rows of frames to rows of steps and back: stream r of frame t is read and predicted in step t + delay of r.

Legend: B batch, R rows, T frames or steps, V codebook size, M the longest delay.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def runs_of_delay(rows_RT: Tensor, delays: Sequence[int]) -> Iterator[tuple[Tensor, int]]:
    """Neighbouring rows of the same delay, `[..., r, T]` of `[..., R, T]`, with it.

    Raises:
        RuntimeError: another number of rows than of delays.
    """
    runs = [(delay, len(list(run))) for delay, run in itertools.groupby(delays)]
    return zip(rows_RT.split([count for _, count in runs], dim=-2), (delay for delay, _ in runs), strict=True)


def delayed(frames_BRT: Tensor, delays: Sequence[int], absent: int) -> Tensor:
    """What each of the T steps holds, `[B, R, T]`; `absent` before the first frame."""
    length = frames_BRT.shape[2]
    runs = runs_of_delay(frames_BRT, delays)
    return torch.cat([F.pad(run, (delay, 0), value=absent)[:, :, :length] for run, delay in runs], dim=1)


def delayed_after(frames_BRS: Tensor, delays: Sequence[int], length: int) -> Tensor:
    """What `length` steps hold, `[B, R, length]`, where M frames stand before the first step's."""
    longest = max(delays)
    rows = zip(frames_BRS.unbind(1), delays, strict=True)
    return torch.stack([row[:, longest - delay :][:, :length] for row, delay in rows], dim=1)


def undelayed(steps_BRT: Tensor, delays: Sequence[int]) -> Tensor:
    """The values of the T frames, `[B, R, T]`; 0 in the last frames, whose steps are not among these."""
    length = steps_BRT.shape[2]
    runs = runs_of_delay(steps_BRT, delays)
    return torch.cat([F.pad(run, (0, delay))[:, :, -length:] for run, delay in runs], dim=1)


def undelayed_logits(steps: Sequence[Tensor], delays: Sequence[int]) -> Tensor:
    """Logits `[B, T, V]` of each row's steps as those of the frames, `[B, R, T, V]`; NaN in the last frames."""
    length, unknown = steps[0].shape[1], _unknown(steps[0], max(delays))
    rows = zip(steps, delays, strict=True)
    pieces = [piece for logits, delay in rows for piece in (logits[:, delay:], unknown[:, : min(delay, length)])]
    return torch.cat(pieces, dim=1).unflatten(1, (len(steps), length))


def late_logits(steps: Sequence[Tensor], delays: Sequence[int], max_delay: int, frames_B: Tensor) -> Tensor:
    """Logits `[B, T, V]` of each row's steps as those of the M frames before the first, `[B, R, M, V]`.

    They are NaN where an earlier or a later step predicts them, and before the start of a stream.

    Args:
        frames_B: frames of each stream before the steps.
    """
    unknown, pieces = _unknown(steps[0], max_delay), []
    for logits, delay in zip(steps, delays, strict=True):
        known = logits[:, :delay]
        pieces += [unknown[:, : max_delay - delay], known, unknown[:, : delay - known.shape[1]]]
    started_BM = frames_B[:, None] >= torch.arange(max_delay, 0, -1, device=frames_B.device)
    late = torch.cat(pieces, dim=1).unflatten(1, (len(steps), max_delay))
    return late.masked_fill(~started_BM[:, None, :, None], math.nan)


def _unknown(logits_BTV: Tensor, length: int) -> Tensor:
    return logits_BTV.new_full((logits_BTV.shape[0], length, logits_BTV.shape[2]), math.nan)
