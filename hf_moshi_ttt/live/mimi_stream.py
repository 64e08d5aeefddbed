"""Kyutai's Mimi on streams: whole frames in, as many out, each row of the batch at its own place.

It is the module of Kyutai's package with the weights of transformers' `MimiModel`: that one decodes whole recordings
only. On CPUs its widest convolutions are matrix products (`frame_convolutions.py`). One thing is mended on the way:
Mimi's transformers take two steps a frame over a ring of keys as long as their window, so the second step's key would
take the slot of a key that the first one still sees. Here the ring is one key longer, and streams equal whole
recordings for as long as they last.

Axes: B batch, K codebooks, T frames, S samples.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import MimiModel

from ..checkpoints.kyutai_mimi import kyutai_mimi, without_compiling
from ..codec.audio import FRAME_SAMPLES
from .frame_convolutions import use_products


class MimiStream:
    """B streams of Mimi.

    Args:
        codec: transformers' Mimi, whose weights are used and not changed.
        batch_size: B.
        num_quantizers: K, the coarsest codebooks, that are encoded.
    """

    delay_samples = 0

    def __init__(self, codec: MimiModel, batch_size: int, num_quantizers: int) -> None:
        self.batch_size, self.mimi = batch_size, kyutai_mimi(codec)
        use_products(self.mimi)
        self.mimi.set_num_codebooks(num_quantizers)
        self.mimi.streaming_forever(batch_size)
        steps_per_frame = round(self.mimi.encoder_frame_rate / self.mimi.frame_rate)
        for state in self._states().values():
            cache = getattr(state, "kv_cache", None)
            if cache is not None:
                state.kv_cache = _longer(cache, steps_per_frame - 1)

    def _states(self) -> dict[str, Any]:
        return {name: state for name, state in self.mimi.get_streaming_state().items() if state is not None}

    def tensors(self) -> dict[str, Tensor]:
        """What the streams remember, by name, a row a stream; written in place by `encode`, `decode` and `reset`."""
        return {f"{name}.{part}": tensor for name, state in self._states().items() for part, tensor in _parts(state)}

    def reset(self, row: int) -> None:
        """Makes a row a fresh stream."""
        self.mimi.reset_streaming(torch.arange(self.batch_size) == row)

    @torch.no_grad()
    def encode(self, samples_BS: Tensor, active_B: Tensor) -> Tensor:
        """Codes `[B, K, T]` int64 of the next whole frames; those of rows that are not active mean nothing."""
        self.mimi.set_exec_mask(active_B)
        frames = samples_BS.to(next(self.mimi.parameters()))[:, None].split(FRAME_SAMPLES, dim=2)
        with without_compiling():
            return torch.cat([self.mimi.encode(frame) for frame in frames], dim=2)

    @torch.no_grad()
    def decode(self, codes_BKT: Tensor, active_B: Tensor) -> Tensor:
        """Samples `[B, S]` float32 of the next frames; rows that are not active are silent."""
        self.mimi.set_exec_mask(active_B)
        codes_BKT = codes_BKT.masked_fill(~active_B[:, None, None], 0)
        with without_compiling():
            samples_BS = torch.cat([self.mimi.decode(frame) for frame in codes_BKT.split(1, dim=2)], dim=2)[:, 0]
        return samples_BS.float() * active_B[:, None]


def _longer(cache: Any, keys: int) -> Any:
    """An empty ring for so many keys more."""
    _, batch_size, heads, capacity, head_dim = cache.cache.shape
    ring = cache.cache
    return type(cache)(batch_size, heads, head_dim, capacity + keys, device=ring.device, dtype=ring.dtype)


def _parts(state: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one module's streaming state that have a row a stream."""
    for part in ("previous", "first", "partial", "offset"):
        if isinstance(getattr(state, part, None), Tensor):
            yield part, getattr(state, part)
    cache = getattr(state, "kv_cache", None)
    if cache is not None:
        yield from {"keys": cache.cache[0], "values": cache.cache[1], "end_offset": cache.end_offset}.items()
