"""`EndToEndState`: what a stream of an `EndToEndMoshi` remembers, one row per sample."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..streaming.state import MoshiTTTState
from ..transformer.stream_state import StreamState, per_row


@dataclass
class EndToEndState(StreamState):
    """The state of `B` streams, which may stand at different frames of their chunks.

    Args:
        deltas: for each fast weight `[B, ...]`, what was learned on top of its trained start.
        stream: window and last codes after the last frame.
        chunk_start: the same as they were before the unfinished chunk, whose step reads it once more.
        codes: `[B, K, C]` int64, the codes of the unfinished chunk; what stands after `position` is not read.
        position: `[B]` int64, frames in the unfinished chunk.
    """

    deltas: tuple[Tensor, ...]
    stream: MoshiTTTState
    chunk_start: MoshiTTTState
    codes: Tensor
    position: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return self.position.shape[0]

    def fresh_value(self, name: str, tensor: Tensor) -> Tensor:
        """What a tensor of this state holds before the first frame."""
        part, _, inner = name.partition(".")
        streams = {"stream": self.stream, "chunk_start": self.chunk_start}
        return streams[part].fresh_value(inner, tensor) if part in streams else torch.zeros_like(tensor)

    def heard(self, codes_BKT: Tensor, stream: MoshiTTTState) -> "EndToEndState":
        """After more frames of the unfinished chunk, none of which reaches beyond its end."""
        frames = torch.arange(codes_BKT.shape[2], device=codes_BKT.device)
        places_BT = self.position[:, None] + frames
        codes = self.codes.scatter(2, places_BT[:, None].expand_as(codes_BKT), codes_BKT)
        return replace(self, stream=stream, codes=codes, position=self.position + len(frames))

    def learned(self, rows_B: Tensor, updates: tuple[Tensor, ...]) -> "EndToEndState":
        """At the start of the next chunk for the rows that are True, with `updates` taken off; unchanged for others."""
        now = self.stream.named_tensors()

        def at_border(name: str, old: Tensor) -> Tensor:
            return torch.where(per_row(rows_B, old), now[name], old)  # a new tensor: the stream's may be written into

        def less(delta: Tensor, update: Tensor) -> Tensor:
            return torch.where(per_row(rows_B, delta), delta - update, delta)

        pairs: Any = zip(self.deltas, updates, strict=True)
        return EndToEndState(
            deltas=tuple(less(*pair) for pair in pairs),
            stream=self.stream,
            chunk_start=self.chunk_start.map(at_border),
            codes=torch.where(per_row(rows_B, self.codes), 0, self.codes),
            position=torch.where(rows_B, 0, self.position),
        )
