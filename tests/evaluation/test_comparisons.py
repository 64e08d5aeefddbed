"""A small paired difference is found between very different recordings, and verdicts claim no more than there is."""

import numpy as np
import pytest

from hf_moshi_ttt.evaluation.comparisons import compare, verdict
from hf_moshi_ttt.evaluation.loss_curve import Estimate

from .test_loss_curve import planted

NAN = np.nan


def test_a_small_paired_difference_is_found() -> None:
    baseline = planted(0, slope=0.0, recordings=5, noise=1.0)
    result = compare([losses - 0.01 for losses in baseline], baseline, window_frames=300, bin_frames=100)
    beyond = result["beyond_window"]
    assert [beyond["value"], beyond["low"], beyond["high"]] == pytest.approx([-0.01] * 3)
    assert result["slope"]["value"] == pytest.approx(0, abs=1e-9)
    assert result["verdict"] == "memory helps: -0.0100 nats beyond the window [-0.0100, -0.0100], n=5"
    assert all(point["value"] == pytest.approx(-0.01) for point in result["curve"])


def test_pairing_narrows_the_interval() -> None:
    baseline = planted(0, slope=0.0, recordings=8)
    rng = np.random.default_rng(5)
    own = [losses - 0.05 + rng.normal(0, 0.01) for losses in baseline]
    beyond = compare(own, baseline, window_frames=300, bin_frames=100)["beyond_window"]
    assert beyond["low"] < -0.05 < beyond["high"] < 0 and beyond["high"] - beyond["low"] < 0.04


def test_no_difference_is_told_where_there_is_none_in_95_of_100_trials() -> None:
    told = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        baseline = planted(seed, slope=0.0, recordings=6)
        own = [losses + rng.normal(0, 0.05) for losses in baseline]
        told += "cannot be told" in compare(own, baseline, 300, 100)["verdict"]
    assert 92 <= told <= 99


def test_a_difference_skips_what_either_side_does_not_know() -> None:
    own, other = np.full(300, 2.0), np.full(300, 3.0)
    own[100:200], other[200:] = NAN, NAN
    assert [p["position_frames"] for p in compare([own], [other], 0, 100)["curve"]] == [50.0]


def test_a_difference_needs_the_same_recordings() -> None:
    with pytest.raises(ValueError, match=r"Recordings of \[10\] frames cannot be paired with recordings of \[10, 10\]"):
        compare([np.ones(10)], [np.ones(10)] * 2, window_frames=0, bin_frames=5)
    with pytest.raises(ValueError, match=r"\[10\] frames cannot be paired with recordings of \[9\] frames"):
        compare([np.ones(10)], [np.ones(9)], window_frames=0, bin_frames=5)


def test_a_difference_within_the_window_says_that_nothing_can_be_told() -> None:
    result = compare([np.ones(100)], [np.zeros(100)], window_frames=100, bin_frames=50)
    assert not {"beyond_window", "slope"} & set(result)
    assert result["verdict"] == "cannot be told: no recording is longer than the attention window"


@pytest.mark.parametrize(
    ("beyond", "words"),
    [
        (Estimate(-0.5, -0.75, -0.25, 8), "memory helps: -0.5000 nats beyond the window [-0.7500, -0.2500], n=8"),
        (Estimate(0.5, 0.25, 0.75, 8), "memory hurts: +0.5000 nats beyond the window [+0.2500, +0.7500], n=8"),
        (Estimate(-0.1, -0.3, 0.1, 8), "cannot be told: -0.1000 nats beyond the window [-0.3000, +0.1000], n=8"),
        (Estimate(0.0, 0.0, 0.0, 8), "cannot be told: +0.0000 nats beyond the window [+0.0000, +0.0000], n=8"),
        (Estimate(-9e-5, -1e-4, -8e-5, 8), "cannot be told: -0.0001 nats beyond the window [-0.0001, -0.0001], n=8"),
        (Estimate(-0.5, None, None, 1), "cannot be told: -0.5000 nats beyond the window, but n=1 recording"),
    ],
)
def test_verdicts(beyond: Estimate, words: str) -> None:
    assert verdict(beyond) == words
    assert verdict(beyond, "a fresh memory").startswith(("a fresh memory", "cannot"))
