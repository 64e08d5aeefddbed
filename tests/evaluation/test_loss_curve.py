"""Planted slopes and differences are found within their intervals, and nothing is said where there is no data."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from hf_moshi_ttt.evaluation.loss_curve import (
    Estimate,
    bin_losses,
    codebook_curves,
    curve,
    estimate_mean,
    estimate_ratio,
    headline,
    long_context_numbers,
    mean_beyond,
    mean_over_recordings,
    slope_per_1000_frames,
    weighted,
)

NAN = np.nan


def planted(
    seed: int, slope: float, recordings: int = 30, noise: float = 0.3, spread: float = 0.0, longest: int = 1500
) -> list[np.ndarray]:
    """Recordings of 900 to `longest` frames whose loss falls fast in a window of 300 frames, then by about `slope`.

    Args:
        slope: in nats per 1,000 frames; `spread` is its standard deviation over recordings.
    """
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(recordings):
        frames = np.arange(rng.integers(900, longest))
        settled = np.where(frames < 300, 2 * (300 - frames) / 300, 0)
        own_slope = slope + spread * rng.standard_normal()
        noise_T = noise * rng.standard_normal(len(frames))
        result.append(rng.normal(5, 1) + settled + own_slope * frames / 1000 + noise_T)
    return result


def test_headline_is_the_mean_of_all_codebooks() -> None:
    losses = np.arange(16, dtype=np.float32).reshape(8, 2)
    losses[3, 1] = np.nan
    np.testing.assert_array_equal(headline(losses), [7.0, np.nan])
    np.testing.assert_allclose(weighted(np.array([[1.0], [3.0]]), [3.0, 1.0]), [1.5])


def test_bins_are_means_of_whole_bins() -> None:
    binned = bin_losses([np.array([1.0, 2.0, 3.0, 5.0, 9.0]), np.array([7.0, 7.0, 8.0])], bin_frames=2)
    assert np.array_equal(binned, [[1.5, 4.0], [7.0, NAN]], equal_nan=True)


def test_unknown_losses_take_part_in_nothing() -> None:
    binned = bin_losses([np.array([1.0, NAN, NAN, NAN, 2.0, 4.0])], bin_frames=2)
    assert np.array_equal(binned, [[1.0, NAN, 3.0]], equal_nan=True)
    assert estimate_mean(binned[:, 1]) is None
    assert [point["position_frames"] for point in curve(binned, 2)] == [1.0, 5.0]


def test_recordings_shorter_than_a_bin_give_no_bins() -> None:
    assert bin_losses([np.ones(3), np.ones(1)], bin_frames=4).shape == (2, 0)


@pytest.mark.parametrize("slope", [-0.5, 0.0, 0.2])
def test_a_noiseless_slope_is_exact(slope: float) -> None:
    losses = planted(0, slope, noise=0.0)
    estimate = slope_per_1000_frames(bin_losses(losses, 50), bin_frames=50, window_frames=300)
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([slope] * 3, abs=1e-9)
    assert estimate.recordings == 30


@pytest.mark.parametrize("recordings", [3, 8, 20])
def test_planted_slopes_lie_in_their_intervals_in_95_of_100_trials(recordings: int) -> None:
    """Slopes, levels and lengths differ from recording to recording; 0 trials in 100 outside would be too wide."""
    covered, widths = 0, []
    for seed in range(100):
        slope = (-0.1, 0.0, 0.1)[seed % 3]
        losses = planted(seed, slope, recordings, spread=0.05, longest=3000)
        estimate = slope_per_1000_frames(bin_losses(losses, 150), bin_frames=150, window_frames=300)
        told = estimate.low is not None
        widths.append(estimate.high - estimate.low if told else np.inf)
        covered += not told or estimate.low <= slope <= estimate.high
    assert 95 <= covered <= (100 if recordings < 5 else 99)  # three say too little to be exact
    assert np.isinf(widths).sum() <= (20 if recordings < 5 else 0)
    assert np.median(widths) < {3: 2.0, 8: 0.2, 20: 0.1}[recordings]


def test_steady_slopes_are_told_from_zero() -> None:
    for seed in range(10):
        estimate = slope_per_1000_frames(bin_losses(planted(seed, -0.1), 150), bin_frames=150, window_frames=300)
        assert estimate.high < 0 and estimate.high - estimate.low < 0.15


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
    assert (estimate.value, estimate.recordings) == (3.0, 2)
    assert mean_beyond(bin_losses(losses[2:], 100), 100, window_frames=200) is None


@pytest.mark.parametrize("count", [2, 5, 400])
def test_the_interval_of_a_mean_is_students(count: int) -> None:
    """In the mean over samples, as wide as the textbook's t interval."""
    rng, ratios = np.random.default_rng(1), []
    for _ in range(20):
        values = rng.standard_normal(count)
        estimate = estimate_mean(values)
        assert estimate.value == pytest.approx(values.mean()) and estimate.low < estimate.value < estimate.high
        assert estimate == estimate_mean(values)
        textbook = 2 * stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)
        ratios.append((estimate.high - estimate.low) / textbook)
    assert 0.9 < np.mean(ratios) < {2: 1.5, 5: 1.2, 400: 1.1}[count]


def test_a_single_recording_has_no_interval() -> None:
    estimate = estimate_mean(np.array([2.5, NAN]))
    assert estimate == Estimate(2.5, None, None, 1)
    assert str(estimate) == "2.5000 (n=1)"
    assert str(Estimate(1.0, 0.5, 1.25, 7)) == "1.0000 [0.5000, 1.2500] (n=7)"
    assert estimate.keys("a") == {"a": 2.5, "a_recordings": 1}
    assert Estimate(1.0, 0.5, 1.25, 7).keys("a") == {"a": 1.0, "a_interval": [0.5, 1.25], "a_recordings": 7}


@pytest.mark.parametrize(("other_frames", "has_interval"), [(230, False), (600, False), (900, True)])
def test_a_long_recording_beside_a_short_one_is_a_single_one(other_frames: int, has_interval: bool) -> None:
    """A recording counts in a slope by the cube of its length: 600 beside 1,000 frames are 1.4 recordings."""
    rng = np.random.default_rng(0)
    losses = [3 + 0.1 * rng.standard_normal(frames) for frames in (1000, other_frames)]
    numbers = long_context_numbers(losses, window_frames=0, bin_frames=50, positions_frames=[])
    assert numbers["librilight_slope_recordings"] == 2 and ("librilight_slope_interval" in numbers) == has_interval
    assert "librilight_loss_beyond_window_interval" in numbers
    if has_interval:
        assert np.abs(numbers["librilight_slope_interval"]).max() < 10


def test_pieces_of_a_recording_count_as_one_draw() -> None:
    values, recordings = np.array([1.0, 1.25, 1.5, NAN, 3.0]), [4, 4, 4, 9, 7]
    found = mean_over_recordings(values, recordings)
    assert found is not None and found.value == 1.6875 and found.recordings == 2
    assert found == estimate_ratio(np.array([3.75, 3.0]), np.array([3.0, 1.0]))
    for told in (None, [4] * 5):
        assert mean_over_recordings(values, told) == estimate_mean(values)
    assert mean_over_recordings(values * NAN, recordings) is None


def test_numbers_have_the_positions_that_are_reached_and_no_others() -> None:
    losses = [np.repeat([5.0, 3.0, 1.0], [1000, 1000, 500]), np.repeat([7.0, 4.0], [1000, 500])]
    numbers = long_context_numbers(losses, 1000, bin_frames=250, positions_frames=[500, 1000, 2000, 2500, 8000])
    assert {key for key in numbers if not key.endswith(("_interval", "_recordings"))} == {
        "librilight_loss_1k", "librilight_loss_2k", "librilight_loss_500", "librilight_loss_beyond_window",
        "librilight_samples", "librilight_slope",
    }  # fmt: skip
    assert numbers["librilight_samples"] == 2
    assert numbers["librilight_loss_500"] == 6.0
    low, high = numbers["librilight_loss_500_interval"]
    assert low < 5 and high > 7  # two recordings say little
    assert numbers["librilight_loss_1k"] == 4.75  # half before the step, half after it
    assert numbers["librilight_loss_2k"] == 2.0 and numbers["librilight_loss_2k_recordings"] == 1
    assert "librilight_loss_2k_interval" not in numbers


@pytest.mark.parametrize(("frames", "is_reached"), [(104, False), (105, True)])
def test_a_position_is_reached_where_all_of_the_window_around_it_is(frames: int, is_reached: bool) -> None:
    assert ("librilight_loss_100" in long_context_numbers([np.ones(frames)], 10, 10, [100])) == is_reached


def test_numbers_within_the_window_have_neither_slope_nor_mean_beyond() -> None:
    numbers = long_context_numbers([np.ones(500)], window_frames=500, bin_frames=100, positions_frames=[])
    assert numbers == {"librilight_samples": 1}


@pytest.mark.parametrize(
    ("window", "bin_frames", "positions", "message"),
    [
        (-5, 10, [100], "window: -5, but it must be a whole number of frames of 80 ms, 0 or more"),
        (10, 0, [100], "bin_frames: 0, but it must be a whole number of frames of 80 ms, 1 or more"),
        (10, -5, [100], "bin_frames: -5, but"),
        (10, 2.5, [100], "bin_frames: 2.5, but"),
        (10, 10, [100, -100], "positions_frames: -100, but .* 0 or more"),
    ],
)
def test_what_is_no_number_of_frames_is_refused(window: Any, bin_frames: Any, positions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        long_context_numbers([np.ones(500)], window, bin_frames, positions)


def test_a_curve_has_a_point_a_bin() -> None:
    points = curve(bin_losses([np.repeat([6.0, 2.0], 250), np.repeat(4.0, 250)], 250), 250)
    assert [(point["position_frames"], point["value"], point["recordings"]) for point in points] == [
        (125.0, 5.0, 2), (375.0, 2.0, 1),
    ]  # fmt: skip
    assert points[0]["low"] < 5 < points[0]["high"] and points[1]["low"] is None


def test_codebooks_have_curves_of_their_own() -> None:
    losses = [np.array([[1.0, 3.0, 5.0, 5.0], [0.0, 0.0, NAN, NAN]]), np.array([[4.0, 4.0], [2.0, 2.0]])]
    assert codebook_curves(losses, bin_frames=2) == [[3.0, 5.0], [1.0, None]]


def test_an_infinite_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="A loss is infinite: the model diverged"):
        long_context_numbers([np.array([1.0, np.inf])], window_frames=0, bin_frames=1, positions_frames=[])
