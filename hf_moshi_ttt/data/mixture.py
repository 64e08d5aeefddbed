"""Weighted mixtures of datasets of recordings: weights are shares of the time."""

import math
from collections.abc import Sequence

from datasets import Dataset, interleave_datasets


def mix(parts: Sequence[Dataset], weights: Sequence[float], seed: int = 0) -> Dataset:
    """Draws recordings from each part so that its share of the time comes near its weight.

    A recording is drawn with a probability in proportion to its part's weight divided by its part's mean duration,
    until every recording of every part has been drawn; parts that are used up before start again.

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
    mean_sec = [sum(part["duration_sec"]) / len(part) for part in parts]
    drawn = [weight / mean for weight, mean in zip(weights, mean_sec, strict=True)]
    probabilities = [value / sum(drawn) for value in drawn]
    return interleave_datasets(list(parts), probabilities=probabilities, seed=seed, stopping_strategy="all_exhausted")
