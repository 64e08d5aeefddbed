"""Planted collapse is measured as such, and speech that stays as it is is not."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt import GREEDY
from hf_moshi_ttt.evaluation.conversation_measures import (
    MEASURES,
    continue_conversation,
    entropy_bits,
    measures_by_window,
    repetition,
    speaking_frames,
    summarize_measures,
)

RNG = np.random.default_rng(0)


def test_the_user_goes_on_as_recorded_and_then_in_silence(make_model: Callable[..., Any]) -> None:
    model, codes, silence = make_model(), RNG.integers(0, 32, (17, 40)), list(range(8))
    added = continue_conversation(model, codes, 30, 25, silence, GREEDY)
    assert added.shape == (17, 25)
    np.testing.assert_array_equal(added[9:, :10], codes[9:, 30:])
    np.testing.assert_array_equal(added[9:, 10:], np.repeat(np.arange(8)[:, None], 15, axis=1))
    own = torch.from_numpy(np.concatenate([codes[:, :30], added], axis=1))[None]
    with torch.no_grad():
        chosen = model(own).audio_logits[0, 0, 30:].argmax(-1)
    np.testing.assert_array_equal(added[1], chosen.numpy())
    assert set(added[0]) == {model.config.end_pad_token_id}  # a model without text, as in its training


def test_codes_of_one_speaker_are_refused(make_model: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="A recording has 8 rows of codes, but a conversation has 17"):
        continue_conversation(make_model(), RNG.integers(0, 32, (8, 40)), 30, 5, [0] * 8, GREEDY)


def test_entropy_is_in_bits() -> None:
    assert entropy_bits(np.zeros(100)) == 0
    assert entropy_bits(np.arange(64).repeat(3)) == pytest.approx(6)


def test_repetition_is_the_share_of_grams_that_were_there() -> None:
    assert repetition(np.arange(100)) == 0
    assert repetition(np.tile(np.arange(10), 10)) == pytest.approx(1 - 10 / 97)
    assert repetition(np.zeros(100)) == pytest.approx(1 - 1 / 97)


def test_speaking_is_louder_than_the_threshold() -> None:
    tone = np.sin(np.arange(3 * 1920) / 5)
    loudness = np.repeat([1.0, 10 ** (-50 / 20), 10 ** (-35 / 20)], 1920)
    assert speaking_frames(np.append(tone * loudness, [1.0] * 10)).tolist() == [True, False, True]


def test_a_voice_that_gets_stuck_and_falls_silent_is_seen() -> None:
    own = RNG.integers(0, 500, (8, 300))
    own[0, 100:200] = np.tile(own[0, 100:105], 20)  # a loop of five codes
    own[0, 200:] = 7
    text = np.where(np.arange(300) % 2 == 0, 20, 3)
    text[100:] = 0
    text[:10] = -1
    samples = RNG.normal(0, 0.1, 300 * 1920)
    samples[200 * 1920 :] = 0
    found = measures_by_window(own, text, samples, [3, 0], window_frames=100)
    assert set(found) == set(MEASURES)
    assert found["entropy_bits"][0] > 6 and found["entropy_bits"][1] == pytest.approx(math.log2(5))
    assert found["entropy_bits"][2] == 0
    assert found["repetition"] == pytest.approx([0, 1 - 5 / 97, 1 - 1 / 97])
    assert found["speaking_share"] == [1, 1, 0]
    assert found["text_share"] == pytest.approx([0.45, 0, 0])


def test_the_summary_has_intervals_over_conversations_and_absent_ends() -> None:
    one = {name: [1.0, 2.0, 3.0] for name in MEASURES}
    other = {name: [3.0, 4.0] for name in MEASURES}
    curves = summarize_measures([one, other], window_frames=250)
    points = curves["repetition"]
    assert [point["value"] for point in points] == [2.0, 3.0, 3.0]
    assert [point["recordings"] for point in points] == [2, 2, 1] and points[2]["low"] is None
    assert points[0]["low"] < 2 < points[0]["high"]
    assert [point["position_frames"] for point in points] == [125, 375, 625] and points[0]["position_sec"] == 10


@pytest.mark.parametrize("window_frames", [3, 61])
def test_windows_that_do_not_fit_are_refused(window_frames: int) -> None:
    with pytest.raises(ValueError, match=f"window_frames={window_frames}, but it must be 4 to 60 frames"):
        measures_by_window(np.zeros((8, 60), int), np.zeros(60), np.zeros(60 * 1920), [3], window_frames)
