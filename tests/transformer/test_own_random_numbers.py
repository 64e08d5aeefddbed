"""Parts draw numbers of their own, and what is drawn after them is as without them."""

import torch

from hf_moshi_ttt.transformer.own_random_numbers import own_random_numbers


def drawn(salts: list[int], seed: int = 0) -> tuple[list[float], float]:
    """What each part draws, and what the whole draws after them."""
    torch.manual_seed(seed)
    own = []
    for salt in salts:
        with own_random_numbers(salt):
            own.append(torch.rand(()).item())
    return own, torch.rand(()).item()


def test_numbers_follow_from_seed_and_salt_and_leave_the_others() -> None:
    first, after = drawn([1, 2])
    assert first[0] != first[1]
    assert (first, after) == drawn([1, 2])
    assert drawn([])[1] == after
    assert drawn([1, 2], seed=1)[0] != first
