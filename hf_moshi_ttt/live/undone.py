"""A step that fails leaves the streams as they were, so that healthy rows of a batch can be stepped again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..codec.text_pieces import TextPieces


class Undone:
    """What the last step began with, in buffers that are made once."""

    def __init__(self) -> None:
        self._before: list[Tensor] = []

    @contextmanager
    def on_failure(
        self, tensors: Mapping[str, Tensor], generators: Sequence[torch.Generator], texts: Sequence[TextPieces]
    ) -> Iterator[None]:
        """Puts everything back where the block raises anything.

        Args:
            tensors: what the block writes in place, the same names with the same shapes every time.
            generators: the sources of its draws.
            texts: whose unfinished characters it goes on with.
        """
        written = list(tensors.values())
        self._before = self._before or [torch.empty_like(tensor) for tensor in written]
        _copy(self._before, written)
        drawn = [generator.get_state() for generator in generators]
        unfinished = [text.unfinished for text in texts]
        try:
            yield
        except BaseException:
            _copy(written, self._before)
            for generator, state in zip(generators, drawn, strict=True):
                generator.set_state(state)
            for text, left in zip(texts, unfinished, strict=True):
                text.resume(left)
            raise


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    """In one call; a codec may remember nothing."""
    if to:
        torch._foreach_copy_(to, values)
