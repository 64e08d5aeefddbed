"""Weights of a mixture are shares of the time, nothing is left out, and the draws depend on the seed alone."""

from collections import Counter

import pytest
from datasets import Dataset

from hf_moshi_ttt.data.mixture import mix


def part(name: str, count: int, duration_sec: float) -> Dataset:
    return Dataset.from_list([{"name": f"{name}{i}", "duration_sec": duration_sec} for i in range(count)])


def test_weights_are_shares_of_the_time() -> None:
    """Long recordings are drawn less often for the same share."""
    mixture = mix([part("a", 300, 600.0), part("b", 300, 60.0)], [3, 1])
    seconds = Counter[str]()
    for row in mixture:
        seconds[row["name"][0]] += row["duration_sec"]
    assert seconds["a"] / seconds.total() == pytest.approx(0.75, abs=0.002)


def test_every_recording_is_there_and_short_parts_start_again() -> None:
    mixture = mix([part("a", 40, 1.0), part("b", 2, 1.0)], [1, 1])
    counts = Counter(mixture["name"])
    assert {f"a{i}" for i in range(40)} | {"b0", "b1"} == set(counts)
    assert min(counts["b0"], counts["b1"]) > 10 and max(counts[f"a{i}"] for i in range(40)) == 1


def test_a_small_share_of_a_large_part_does_not_make_a_mixture_endless(caplog: pytest.LogCaptureFixture) -> None:
    """0.005 of 20,000 recordings beside 2,000 would be 4 million rows; a recording comes ten times at most."""
    mixture = mix([part("a", 20_000, 60.0), part("b", 2_000, 60.0)], [0.005, 0.995])
    counts = Counter(name[0] for name in mixture["name"])
    assert (counts["a"], counts["b"]) == (101, 20_000)
    assert len({name for name in mixture["name"] if name[0] == "a"}) == 101
    assert "Part 0 of the mixture gives 101 of its 20000 recordings: its weight of 0.005 is too small" in caplog.text
    assert "Part 1" not in caplog.text


def test_parts_are_spread_evenly() -> None:
    names = list(mix([part("a", 900, 1.0), part("b", 100, 1.0)], [9, 1])["name"])
    assert len(names) == 1000
    assert all(8 <= sum(name[0] == "b" for name in names[first : first + 100]) <= 12 for first in range(0, 1000, 100))


def test_the_seed_decides() -> None:
    orders = [list(mix([part("a", 20, 1.0), part("b", 20, 1.0)], [1, 1], seed)["name"]) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        ([], [], "0 parts and 0 weights, but each part needs its weight"),
        ([1, 1], [1], "2 parts and 1 weights"),
        ([1, 1], [1, 0], r"weights=\[1, 0\], but each must be above 0"),
        ([1, 1], [1, float("nan")], "but each must be above 0"),
        ([1, 0], [1, 1], r"The parts hold \[1, 0\] recordings, but each needs one"),
    ],
)
def test_impossible_mixtures_are_refused(counts: list[int], weights: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mix([part("a", count, 1.0) for count in counts], weights)
