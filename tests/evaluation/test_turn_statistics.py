"""Wilson's interval, medians with their bootstrap over conversations, and what is absent."""

import numpy as np
import pytest

from hf_moshi_ttt.evaluation.turn_statistics import delay_keys, median_of, over_conversations, rate_keys, rate_of


def test_rates_have_wilsons_interval() -> None:
    """The interval of 8 of 10 is that of Wilson's formula, written out."""
    z, p, n = 1.959963984540054, 0.8, 10
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = rate_keys("rate", 8, 10)
    assert found["rate"] == 0.8 and found["rate_count"] == 10
    assert found["rate_interval"] == pytest.approx([centre - half, centre + half])
    assert rate_keys("rate", 0, 3)["rate_interval"][0] == 0 and rate_keys("rate", 0, 0) == {}


def test_delays_have_median_and_percentile_over_all_and_an_interval_over_conversations() -> None:
    found = delay_keys("delay", [[0.1, 0.2, 0.3], [], [0.4, 1.0]])
    assert (found["delay_median_sec"], found["delay_count"]) == (0.3, 5)
    assert found["delay_p90_sec"] == pytest.approx(0.76)
    assert "delay_median_sec_interval" not in found  # some resamples are of the conversation without a delay alone
    low, high = delay_keys("delay", [[0.1, 0.2, 0.3], [0.4, 1.0]])["delay_median_sec_interval"]
    assert (low, high) == (pytest.approx(0.2), pytest.approx(0.7))


@pytest.mark.parametrize("delays", [[], [[]], [[], []]])
def test_no_delay_has_no_number(delays: list[list[float]]) -> None:
    assert delay_keys("delay", delays) == {}


def test_one_conversation_has_no_interval() -> None:
    assert set(delay_keys("delay", [[0.5, 0.6]])) == {"delay_median_sec", "delay_p90_sec", "delay_count"}
    assert over_conversations(1, lambda chosen: 1.0) is None


def test_the_bootstrap_holds_a_mean_and_repeats() -> None:
    values = np.random.default_rng(0).normal(3, 1, 50)
    low, high = over_conversations(50, lambda chosen: values[chosen].mean()) or [0, 0]
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 * values.std() / 50**0.5, rel=0.2)
    assert over_conversations(50, lambda chosen: values[chosen].mean()) == [low, high]


def test_what_is_chosen_is_pooled() -> None:
    counts = np.array([[1, 2], [0, 0], [3, 3]], float)
    assert rate_of(counts, np.array([0, 2, 2])) == 7 / 8 and np.isnan(rate_of(counts, np.array([1])))
    assert median_of([[1.0], [], [5.0]], np.array([0, 2, 2])) == 5.0 and np.isnan(median_of([[]], np.array([0])))
