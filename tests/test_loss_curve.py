"""Planted slopes and differences are found within their intervals, and nothing is said where there is no data."""

import numpy as np
import pytest

from hf_moshi_ttt.loss_curve import (
    Estimate,
    bin_losses,
    bootstrap,
    curve,
    difference,
    mean_at,
    mean_beyond,
    slope_per_1000_frames,
    summarize,
    verdict,
)

NAN = np.nan


def planted(seed: int, slope: float, recordings: int = 30, noise: float = 0.3) -> list[np.ndarray]:
    """Recordings of 900 to 1500 frames whose loss falls fast in a window of 300 frames, then by `slope` per 1,000."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(recordings):
        frames = np.arange(rng.integers(900, 1500))
        settled = np.where(frames < 300, 2 * (300 - frames) / 300, 0)
        hardness = rng.normal(5, 1)
        result.append(hardness + settled + slope * frames / 1000 + noise * rng.standard_normal(len(frames)))
    return result


def test_bins_are_means_of_whole_bins() -> None:
    binned = bin_losses([np.array([1.0, 2.0, 3.0, 5.0, 9.0]), np.array([7.0, 7.0, 8.0])], bin_frames=2)
    assert np.array_equal(binned, [[1.5, 4.0], [7.0, NAN]], equal_nan=True)


def test_unknown_losses_take_part_in_nothing() -> None:
    binned = bin_losses([np.array([1.0, NAN, NAN, NAN, 2.0, 4.0])], bin_frames=2)
    assert np.array_equal(binned, [[1.0, NAN, 3.0]], equal_nan=True)
    assert mean_at(binned, 1) is None
    assert [point["position_frames"] for point in curve(binned, 2)] == [1.0, 5.0]


def test_recordings_shorter_than_a_bin_give_no_bins() -> None:
    assert bin_losses([np.ones(3), np.ones(1)], bin_frames=4).shape == (2, 0)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.2])
def test_a_noiseless_slope_is_exact(slope: float) -> None:
    losses = planted(0, slope, noise=0.0)
    estimate = slope_per_1000_frames(bin_losses(losses, 50), bin_frames=50, window_frames=300)
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([slope] * 3, abs=1e-9)
    assert estimate.recordings == 30


def test_planted_slopes_lie_in_their_intervals_in_at_least_90_of_100_trials() -> None:
    covered = 0
    widths = []
    for seed in range(100):
        slope = (-0.1, 0.0, 0.1)[seed % 3]
        estimate = slope_per_1000_frames(bin_losses(planted(seed, slope), 150), bin_frames=150, window_frames=300)
        covered += estimate.low <= slope <= estimate.high
        widths.append(estimate.high - estimate.low)
    assert covered >= 90
    assert max(widths) < 0.15  # and they are narrow enough to tell 0.1 from 0


def test_easy_long_and_hard_short_recordings_do_not_tilt_the_slope() -> None:
    losses = [np.full(900, 9.0), np.full(900, 8.0), np.full(3000, 3.0), np.full(3000, 2.0)]
    estimate = slope_per_1000_frames(bin_losses(losses, 100), bin_frames=100, window_frames=300)
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([0, 0, 0], abs=1e-12)


def test_the_slope_starts_at_the_window() -> None:
    losses = [np.concatenate([np.linspace(9, 5, 200), np.full(400, 5.0)])]
    assert slope_per_1000_frames(bin_losses(losses, 100), 100, window_frames=200).value == pytest.approx(0, abs=1e-9)
    assert slope_per_1000_frames(bin_losses(losses, 100), 100, window_frames=100).value < -1


@pytest.mark.parametrize("length", [200, 300, 399])
def test_no_slope_from_fewer_than_two_bins_beyond_the_window(length: int) -> None:
    assert slope_per_1000_frames(bin_losses([np.ones(length)] * 3, 100), 100, window_frames=200) is None
    assert slope_per_1000_frames(bin_losses([np.ones(400)] * 3, 100), 100, window_frames=200) is not None


def test_the_mean_beyond_the_window_weighs_recordings_alike() -> None:
    losses = [np.repeat([9.0, 2.0], [200, 100]), np.repeat([9.0, 4.0], [200, 800]), np.full(200, 9.0)]
    estimate = mean_beyond(bin_losses(losses, 100), 100, window_frames=200)
    assert (estimate.value, estimate.low, estimate.high, estimate.recordings) == (3.0, 2.0, 4.0, 2)
    assert mean_beyond(bin_losses(losses[2:], 100), 100, window_frames=200) is None


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    rows = np.random.default_rng(1).standard_normal(400)
    estimate = bootstrap(lambda values: float(values.mean()), rows)
    assert estimate.value == rows.mean()
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 20, rel=0.1)
    assert estimate.low < estimate.value < estimate.high
    assert estimate == bootstrap(lambda values: float(values.mean()), rows)


def test_a_single_recording_has_no_interval() -> None:
    estimate = bootstrap(np.mean, np.array([2.5]))
    assert estimate == Estimate(2.5, None, None, 1)
    assert str(estimate) == "2.5000 (n=1)"
    assert str(Estimate(1.0, 0.5, 1.25, 7)) == "1.0000 [0.5000, 1.2500] (n=7)"


def test_a_summary_has_the_positions_that_are_reached_and_no_others() -> None:
    losses = [np.repeat([5.0, 3.0, 1.0], [1000, 1000, 500]), np.repeat([7.0, 4.0], [1000, 500])]
    summary = summarize(losses, window_frames=1000, bin_frames=250, positions=[500, 1000, 2000, 2500, 8000])
    assert sorted(summary) == [
        "bin_frames", "curve", "librilight_loss_1k", "librilight_loss_2k", "librilight_loss_500",
        "librilight_loss_beyond_window", "librilight_samples", "librilight_slope",
    ]  # fmt: skip
    assert (summary["librilight_samples"], summary["bin_frames"]) == (2, 250)
    assert summary["librilight_loss_500"] == {"value": 6.0, "low": 5.0, "high": 7.0, "recordings": 2}
    assert summary["librilight_loss_1k"]["value"] == 4.75  # half before the step, half behind it
    assert summary["librilight_loss_2k"] == {"value": 2.0, "low": None, "high": None, "recordings": 1}
    assert [point["position_frames"] for point in summary["curve"]] == [125.0 + 250 * n for n in range(10)]
    assert summary["curve"][0]["value"] == 6.0


def test_a_summary_within_the_window_has_neither_slope_nor_mean_beyond() -> None:
    summary = summarize([np.ones(500)], window_frames=500, bin_frames=100, positions=[])
    assert sorted(summary) == ["bin_frames", "curve", "librilight_samples"]


def test_a_small_paired_difference_is_found_between_very_different_recordings() -> None:
    baseline = planted(0, slope=0.0, recordings=5, noise=1.0)
    result = difference([losses - 0.01 for losses in baseline], baseline, window_frames=300, bin_frames=100)
    beyond = result["beyond_window"]
    assert [beyond["value"], beyond["low"], beyond["high"]] == pytest.approx([-0.01] * 3)
    assert result["slope"]["value"] == pytest.approx(0, abs=1e-9)
    assert result["verdict"] == "lower loss than the baseline: -0.0100 nats [-0.0100, -0.0100], n=5"
    assert all(point["value"] == pytest.approx(-0.01) for point in result["curve"])


def test_a_difference_skips_what_either_side_does_not_know() -> None:
    own, other = np.full(300, 2.0), np.full(300, 3.0)
    own[100:200], other[200:] = NAN, NAN
    assert [p["position_frames"] for p in difference([own], [other], 0, 100)["curve"]] == [50.0]


def test_a_difference_needs_the_same_recordings() -> None:
    with pytest.raises(ValueError, match=r"Recordings of \[10\] frames cannot be paired with recordings of \[10, 10\]"):
        difference([np.ones(10)], [np.ones(10)] * 2, window_frames=0, bin_frames=5)
    with pytest.raises(ValueError, match=r"\[10\] frames cannot be paired with recordings of \[9\] frames"):
        difference([np.ones(10)], [np.ones(9)], window_frames=0, bin_frames=5)


def test_an_infinite_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="A loss is infinite: the model diverged"):
        summarize([np.array([1.0, np.inf])], window_frames=0, bin_frames=1, positions=[])


def test_a_difference_within_the_window_says_that_nothing_can_be_told() -> None:
    result = difference([np.ones(100)], [np.zeros(100)], window_frames=100, bin_frames=50)
    assert (result["beyond_window"], result["slope"]) == (None, None)
    assert result["verdict"] == "cannot be told: fewer than two recordings are longer than the attention window"


@pytest.mark.parametrize(
    ("beyond", "words"),
    [
        (Estimate(-0.5, -0.75, -0.25, 8), "lower loss than the baseline: -0.5000 nats [-0.7500, -0.2500], n=8"),
        (Estimate(0.5, 0.25, 0.75, 8), "higher loss than the baseline: +0.5000 nats [+0.2500, +0.7500], n=8"),
        (Estimate(-0.1, -0.3, 0.1, 8), "cannot be told from the baseline: -0.1000 nats [-0.3000, +0.1000], n=8"),
        (Estimate(0.0, 0.0, 0.0, 8), "cannot be told from the baseline: +0.0000 nats [+0.0000, +0.0000], n=8"),
        (
            Estimate(-0.5, None, None, 1),
            "cannot be told: fewer than two recordings are longer than the attention window",
        ),
        (None, "cannot be told: fewer than two recordings are longer than the attention window"),
    ],
)
def test_verdicts(beyond: Estimate | None, words: str) -> None:
    assert verdict(beyond) == words
