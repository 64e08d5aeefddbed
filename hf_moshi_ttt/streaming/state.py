"""`MoshiTTTState`: everything a running stream remembers, one row per sample.

The memory of the TTT layers (fast weights in float32), the attention window's keys and values, the last frames of codes
that the delays still need, and the number of frames so far. A model call may write the window of the state it is given
in place: continue with the state it returns, or `clone()` first.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..special_ids import NO_INPUT_ID
from ..transformer.stream_state import StreamState, per_row

if TYPE_CHECKING:
    from ..transformer.attention import KVCache


@dataclass
class MoshiTTTState(StreamState):
    """The state of `B` streams.

    Args:
        memory: the state of each TTT layer, in order.
        window: one `KVCache` per temporal layer, or None: then each call starts a new segment, and only the memory is
            carried from one to the next.
        history: `[B, K, max_delay + 1]` int64, the codes of the last frames, -2 where one is still to be predicted.
        initial: `[B, K]` int64, the history of a fresh stream.
        frames: `[B]` int64, frames since the start of the stream.
    """

    memory: tuple[StreamState, ...]
    window: "tuple[KVCache, ...] | None"
    history: Tensor
    initial: Tensor
    frames: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return self.frames.shape[0]

    def fresh_value(self, name: str, tensor: Tensor) -> Tensor:
        """What a tensor of this state holds before the first frame."""
        if name in ("history", "initial"):
            return self.initial[:, :, None].expand_as(tensor).clone() if name == "history" else tensor
        return torch.zeros_like(tensor)

    def keep_rows(self, rows_B: Tensor, before: "MoshiTTTState") -> "MoshiTTTState":
        """This state for the rows that are True, the state `before` for the others, whose streams do not advance.

        The windows are this state's for all rows: the slot a frame writes is outside the window of the state before.
        """
        rows, old = self.row_mask(rows_B), before.named_tensors()

        def chosen(name: str, tensor: Tensor) -> Tensor:
            return tensor if name.startswith("window.") else torch.where(per_row(rows, tensor), tensor, old[name])

        return self.map(chosen)

    def with_user_codes(self, codes_BQ: Tensor, rows_B: Tensor) -> "MoshiTTTState":
        """This state with the user's codes of its last frame, for the rows that are True and have a frame.

        A live stream hears the user's frame s - 1 just before step s.
        """
        user = slice(-codes_BQ.shape[1], None)
        heard_B = self.row_mask(rows_B) & (self.frames > 0)
        history = self.history.clone()
        history[:, user, -1] = torch.where(heard_B[:, None], codes_BQ, history[:, user, -1])
        return replace(self, history=history)

    def with_own_codes_as_user(self, rows_B: Tensor) -> "MoshiTTTState":
        """This state with Moshi's codes in place of the user's absent ones, where Moshi's are known.

        It is what the user's rows of mono recordings are in training (`user_stream="duplicate"`). Just before step s,
        that is all which the step reads: codes without a delay of frame s - 1, and the delayed ones before it.

        Args:
            rows_B: `[B]` bool, False for rows that stay as they are.
        """
        rows = self.row_mask(rows_B)[:, None, None]
        return replace(self, history=with_own_codes_as_user(self.history).where(rows, self.history))

    def num_bytes_by_layer(self) -> dict[str, int]:
        """Bytes of each TTT layer's memory, in order, and of each temporal layer's window: `memory.0`, `window.0`.

        Both grow with the number of streams B, not with their length.
        """
        parts = {"memory": self.memory, "window": self.window or ()}
        return {f"{name}.{i}": part.num_bytes() for name, side in parts.items() for i, part in enumerate(side)}

    def new_segment(self) -> "MoshiTTTState":
        """A state with the same memory, and a fresh attention window, positions and delays."""
        fresh = self.fresh_value("history", self.history)
        return replace(self, window=None, history=fresh, frames=torch.zeros_like(self.frames))


def with_own_codes_as_user(codes_BKT: Tensor) -> Tensor:
    """Codes `[B, K, T]` with Moshi's in place of the user's absent ones, where Moshi's are known."""
    codebooks = (codes_BKT.shape[1] - 1) // 2
    own, user = codes_BKT[:, 1 : 1 + codebooks], codes_BKT[:, 1 + codebooks :]
    filled = own.where((user == NO_INPUT_ID) & (own >= 0), user)
    return torch.cat([codes_BKT[:, : 1 + codebooks], filled], dim=1)
