"""Weighted mixtures of datasets of recordings: weights are fractions of the time."""

import logging
import math
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets

logger = logging.getLogger(__name__)

MOST_PASSES = 10
FREE_ROWS = 100_000
"""A recording comes at most `MOST_PASSES` times in a mixture of more rows than these."""


def mix(parts: Sequence[Dataset], weights: Sequence[float], seed: int = 0) -> Dataset:
    """Recordings of each part, spread evenly, such that its share of the time is its weight.

    Every recording comes at least once, those of parts that are short for their weight several times. Where that would
    make a mixture endless (see `MOST_PASSES`), a part whose weight is too small gives only some of its recordings,
    drawn by the seed, with a warning.

    Args:
        parts: datasets with the same columns, `duration_sec` among them.
        weights: a number above 0 for each part; their sum does not matter.

    Raises:
        ValueError: no part, an empty one, another number of weights, or a weight that is not above 0.
    """
    if not parts or len(parts) != len(weights):
        raise ValueError(f"{len(parts)} parts and {len(weights)} weights, but each part needs its weight.")
    if not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"weights={list(weights)}, but each must be above 0.")
    if not all(len(part) for part in parts):
        raise ValueError(f"The parts hold {[len(part) for part in parts]} recordings, but each needs one.")
    hours = [float(np.sum(part["duration_sec"][:])) / 3600 for part in parts]
    rates = [weight / length for weight, length in zip(weights, hours, strict=True)]
    counts = _counts([len(part) for part in parts], rates)
    rng, rows, places, offset = np.random.default_rng(seed), [], [], 0
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if count < len(part):
            logger.warning(
                "Part %d of the mixture gives %d of its %d recordings: its weight of %g is too small for all of them "
                "beside %d passes of another part.", number, count, len(part), weights[number], MOST_PASSES,
            )  # fmt: skip
        rows.append(offset + _drawn(len(part), count, rng))
        places.append((np.arange(count) + rng.random(count)) / count)
        offset += len(part)
    return concatenate_datasets(list(parts)).select(np.concatenate(rows)[np.argsort(np.concatenate(places))])


def _counts(lengths: Sequence[int], rates: Sequence[float]) -> list[int]:
    """How many rows each part gives, such that it is gone through in proportion to `rates`."""
    passes = 1 / min(rates)
    wanted = [length * rate for length, rate in zip(lengths, rates, strict=True)]
    if sum(wanted) * passes > FREE_ROWS:
        passes = min(passes, MOST_PASSES / max(rates))
    return [max(1, round(rows * passes)) for rows in wanted]


def _drawn(length: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` numbers of the recordings of a part, pass by pass in order; those of an unfinished pass are drawn."""
    passes, left = divmod(count, length)
    rest = np.sort(rng.choice(length, left, replace=False))
    return np.concatenate([np.tile(np.arange(length), passes), rest])
