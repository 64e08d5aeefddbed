"""Where somebody speaks: bursts to a window, silence, quiet and constant sound."""

import numpy as np
import pytest
import torch

from hf_moshi_ttt.evaluation import voice_activity
from hf_moshi_ttt.evaluation.voice_activity import find_speech

from ..fixtures.planted_conversations import bursts

SPANS = [(0.5, 1.234), (1.5, 1.75), (4.0, 5.5)]


@pytest.mark.parametrize("gain", [1.0, 0.05, 8.0])
def test_bursts_are_found_to_a_window_at_any_level(gain: float) -> None:
    found = find_speech(gain * bursts(6.0, SPANS))
    assert found.shape == (3, 2) and np.abs(found - SPANS).max() <= 0.0201


def test_short_silences_are_filled_and_short_bursts_dropped() -> None:
    found = find_speech(bursts(4.0, [(0.5, 1.0), (1.08, 1.5), (3.0, 3.06)]))
    assert found.tolist() == [[0.5, 1.5]]


@pytest.mark.parametrize("samples", [np.zeros(24_000), bursts(1.0, [(0, 1)]) * 0.005, np.zeros(0)])
def test_silence_and_faint_noise_are_no_speech(samples: np.ndarray) -> None:
    assert find_speech(samples).shape == (0, 2)


def test_sound_without_end_is_one_interval_up_to_the_end() -> None:
    assert find_speech(bursts(1.2345, [(0, 2)])).tolist() == [[0.0, 29628 / 24_000]]


def test_noise_below_the_range_is_no_speech() -> None:
    loud = bursts(4.0, [(1, 2)]) + bursts(4.0, [(0, 4)], seed=1) * 10 ** (-(voice_activity.RANGE_DB + 3) / 20)
    assert find_speech(loud).tolist() == [[1.0, 2.0]]


def test_silero_hears_no_speech_in_noise_and_leaves_torchs_threads_alone() -> None:
    pytest.importorskip("silero_vad")
    pytest.importorskip("onnxruntime")
    voice_activity._silero.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert find_speech(bursts(2.0, [(0.5, 1.5)]), "silero").shape == (0, 2)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_unknown_methods_and_missing_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="method='webrtc', but voice activity is found by one of energy, silero"):
        find_speech(np.zeros(10), "webrtc")
    voice_activity._silero.cache_clear()
    monkeypatch.setattr("hf_moshi_ttt.extras.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"silero-vad is not installed, .* pip install 'hf_moshi_ttt\[turn-taking\]'"):
        find_speech(np.zeros(10), "silero")
