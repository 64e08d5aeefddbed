"""Streams with a known map from keys to values: what does a learner remember of them?

A frame shows one of a few random keys and the value that belongs to it. A memory that works answers the next time the
key comes with its value; one that has collapsed answers every key alike. The map may change from time to time, so that
the memory has to forget, and values may be noisy. `follow` gives a learner the frames and returns what it did.

Legend: B rows, H heads, T frames, F head width.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..transformer.stream_state import StreamState
from .naive import MemoryDiagnostics, inner_target


@dataclass
class RecallStream:
    """Keys and values `[T, F]`, the same for all rows and heads."""

    keys_TF: Tensor
    values_TF: Tensor

    def part(self, first_frame: int, last_frame: int) -> "RecallStream":
        """Frames `first_frame` .. `last_frame - 1`."""
        return RecallStream(self.keys_TF[first_frame:last_frame], self.values_TF[first_frame:last_frame])


def make_recall_stream(
    frames: int, width: int, num_keys: int = 32, period_frames: int | None = None, noise: float = 0.0, seed: int = 0
) -> RecallStream:
    """A random stream, every entry of keys and values a standard normal.

    Args:
        frames: T.
        period_frames: after how many frames each key gets a new value; never if None.
        noise: standard deviation of what is added to the values.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(num_keys, width, generator=generator)
    drawn = torch.randint(num_keys, (frames,), generator=generator)
    period = torch.arange(frames) // (period_frames or frames)
    values = torch.randn(int(period[-1]) + 1, num_keys, width, generator=generator)[period, drawn]
    return RecallStream(keys[drawn], values + noise * torch.randn(frames, width, generator=generator))


@torch.no_grad()
def follow(
    learner: Any,
    stream: RecallStream,
    num_heads: int,
    state: StreamState | None = None,
    gate_logits_B: Tensor | None = None,
    diagnostics: bool = True,
    chunk_frames: int = 1000,
) -> tuple[MemoryDiagnostics | None, StreamState]:
    """Gives a stream to a learner of `layer.LEARNERS`, every key its own query.

    Args:
        state: the memory before the stream, or None for a fresh one.
        gate_logits_B: logit of the inner learning rate of every frame, one a row; one row at 0 if None.
        diagnostics: whether to return what the memory did.

    Returns:
        The losses `[B, H, T]` of all frames, and the other diagnostics as they are after the last chunk; and the
        state after the stream.
    """
    logits = torch.zeros(1) if gate_logits_B is None else gate_logits_B
    found = []
    for first in range(0, len(stream.keys_TF), chunk_frames):
        part = stream.part(first, first + chunk_frames)
        shape = (len(logits), num_heads, *part.keys_TF.shape)
        k, v = (x.expand(shape) for x in (part.keys_TF, part.values_TF))
        gates = logits[:, None, None, None].expand(*shape[:3], learner.gates_per_head)
        _, state, chunk_diagnostics = learner(k, k, v, gates, state, diagnostics)
        found.append(chunk_diagnostics)
    assert state is not None, "a stream has frames"
    return (_joined(found) if diagnostics else None), state


def _joined(found: list[MemoryDiagnostics]) -> MemoryDiagnostics:
    losses = [field.name for field in fields(MemoryDiagnostics) if field.name.startswith("loss_")]
    return replace(found[-1], **{name: torch.cat([getattr(part, name) for part in found], dim=2) for name in losses})


def best_constant_loss(learner: Any, stream: RecallStream) -> float:
    """The mean squared error of the best constant answer to a stream, by a `TTTLearner` in its own units.

    That is the variance of the targets, averaged over F.
    """
    k, v = (x[None, None] for x in (stream.keys_TF, stream.values_TF))
    tokens = learner.inner_tokens(k, k, v, torch.zeros(*k.shape[:3], 1), None)
    return float(inner_target(learner.inner_network(), tokens.k, tokens.v).var(2, correction=0).mean())
