"""Random numbers of a part of a model that leave those of its other parts as they are without it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_random_numbers(salt: int) -> Iterator[None]:
    """Random numbers that follow from the seed and a salt, but leave the sequence outside as it was.

    So with one seed a model has the same other weights with and without TTT.
    """
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), device="cpu")) + salt)
        yield
