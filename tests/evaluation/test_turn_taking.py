"""Planted conversations are recovered: every rate exactly, every time to a frame; extremes score as they must."""

import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.codec.audio import BadAudioError
from hf_moshi_ttt.evaluation import turn_taking
from hf_moshi_ttt.evaluation.speech_times import Word
from hf_moshi_ttt.evaluation.turn_outcomes import DELAYS, RATES, Outcomes
from hf_moshi_ttt.evaluation.turn_taking import Heard, hear, paired_differences, turn_taking_numbers

from ..fixtures.planted_conversations import SCENES, Planted, bursts, planted

FRAME_SEC = 0.08


@pytest.fixture(scope="module", params=range(3))
def conversation(request: pytest.FixtureRequest) -> Planted:
    return planted(request.param)


@pytest.fixture(scope="module")
def heard(conversation: Planted) -> Heard:
    return hear(*conversation.samples())


def test_every_rate_is_recovered_exactly_and_every_delay_to_a_frame(conversation: Planted, heard: Heard) -> None:
    expected = conversation.expected
    for field in fields(Outcomes):
        found, known = getattr(heard.outcomes, field.name), getattr(expected, field.name)
        if field.name in RATES.values():
            assert found == known, field.name
        elif field.name in DELAYS.values():
            assert len(found) == len(known) and np.abs(np.subtract(found, known)).max() <= FRAME_SEC, field.name
    assert heard.outcomes.backchannels == pytest.approx(expected.backchannels, abs=FRAME_SEC)
    assert heard.duration_sec == conversation.duration_sec


def test_speech_is_recovered_to_a_frame(conversation: Planted, heard: Heard) -> None:
    assert heard.user_N2 == pytest.approx(np.array(conversation.user), abs=FRAME_SEC)
    assert heard.model_N2 == pytest.approx(np.array(conversation.model), abs=FRAME_SEC)


@pytest.mark.parametrize("scene", SCENES)
def test_one_scene_alone_has_no_numbers_of_others(scene: str) -> None:
    conversation = planted(7, [scene] * 2)
    numbers = turn_taking_numbers([hear(*conversation.samples())])
    for name, field in RATES.items():
        known = getattr(conversation.expected, field)
        assert numbers.get(name) == (known[0] / known[1] if known[1] else None), name
    for name, field in DELAYS.items():
        known = getattr(conversation.expected, field)
        found = numbers.get(f"{name}_median_sec")
        assert (found is None) == (not known) and (found is None or abs(found - np.median(known)) <= FRAME_SEC), name


def test_a_copy_of_the_human_scores_as_the_human(heard: Heard) -> None:
    copied = Heard(heard.user_N2.copy(), heard.model_N2.copy(), heard.duration_sec)
    assert turn_taking_numbers([copied] * 2) == turn_taking_numbers([heard] * 2)
    found = paired_differences([copied] * 3, [heard] * 3)
    assert {key for key in found if key.endswith("_rate_difference")} == {f"{name}_difference" for name in RATES}
    assert all(value in (0.0, [0.0, 0.0]) for value in found.values())


def test_a_model_that_is_always_silent(conversation: Planted) -> None:
    user, _ = conversation.samples()
    numbers = turn_taking_numbers([hear(user, np.zeros_like(user))])
    assert (numbers["pause_takeover_rate"], numbers["response_rate"], numbers["silent_model"]) == (0.0, 0.0, 1)
    assert (numbers["backchannels_per_min"], numbers["overlap_per_min"], numbers["gap_per_min"]) == (0.0, 0.0, 0.0)
    absent = [*(f"{name}_median_sec" for name in DELAYS), "interruption_yield_rate", "backchannel_hold_rate"]
    assert not set(absent) & set(numbers)


def test_a_model_that_never_stops(conversation: Planted) -> None:
    user, _ = conversation.samples()
    numbers = turn_taking_numbers([hear(user, bursts(conversation.duration_sec, [(0, 1e9)], 1))])
    assert numbers["pause_takeover_rate"] == 1.0 and "response_rate" not in numbers  # it speaks as each turn begins
    assert (numbers["interruption_yield_rate"], numbers["interruption_response_rate"]) == (0.0, 1.0)
    assert (numbers["backchannel_hold_rate"], numbers["interruption_delay_median_sec"]) == (1.0, 0.0)
    assert numbers["model_speaking_share"] == 1.0 and numbers["backchannels_per_min"] == 0.0
    assert "stop_delay_median_sec" not in numbers and "gap_median_sec" not in numbers


def test_a_silent_user_gives_no_chance_and_is_counted() -> None:
    numbers = turn_taking_numbers([hear(np.zeros(240_000), bursts(10, [(1, 4)]))])
    assert numbers["silent_user"] == 1 and not set(RATES) & set(numbers)


def test_a_difference_is_found_with_its_interval() -> None:
    quick, slow = ([], [])
    for seed in range(6):
        conversation = planted(seed, ["answered"] * 3)
        quick.append(hear(*conversation.samples()))
        user = quick[-1].user_N2
        slow.append(Heard(user, quick[-1].model_N2 + 0.5, quick[-1].duration_sec))
    found = paired_differences(slow, quick)
    assert found["response_delay_median_sec_difference"] == pytest.approx(0.5)
    assert found["response_delay_median_sec_difference_interval"] == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match=r"Conversations of \[.*\] s cannot be paired with conversations of \[.*\] s"):
        paired_differences(slow, quick[:2])


def test_files_of_two_channels_or_one_each(tmp_path: Path, conversation: Planted, heard: Heard) -> None:
    user, model = conversation.samples()
    soundfile.write(tmp_path / "talk.wav", np.stack([model, user], axis=1), 24_000)
    soundfile.write(tmp_path / "user.wav", user[::3], 8_000)
    soundfile.write(tmp_path / "model.wav", model, 24_000)
    whole = hear(tmp_path / "talk.wav")
    assert whole.outcomes.responses == heard.outcomes.responses and np.allclose(whole.user_N2, heard.user_N2)
    apart = hear(str(tmp_path / "user.wav"), tmp_path / "model.wav")
    assert apart.outcomes.pause_takeovers == heard.outcomes.pause_takeovers
    assert np.allclose(hear(tmp_path / "talk.wav", user_channel=0).model_N2, heard.user_N2)
    with pytest.raises(
        ValueError, match=r"model.wav: 1 channel, but a conversation needs two, \[2, S\]: give a file of two"
    ):
        hear(tmp_path / "model.wav")
    with pytest.raises(ValueError, match=r"samples: \[24000, 2\], but a conversation needs two, \[2, S\]"):
        hear(np.zeros((24_000, 2), np.float32))  # as soundfile reads it
    with pytest.raises(ValueError, match="samples: holds no samples"):
        hear(np.zeros((2, 0), np.float32))
    with pytest.raises(ValueError, match=r"talk.wav: the model's side must be one channel \[S\], got \[2, "):
        hear(user, tmp_path / "talk.wav")
    with pytest.raises(ValueError, match="user_channel=2, but a conversation has channels 0 and 1"):
        hear(tmp_path / "talk.wav", user_channel=2)
    with pytest.raises(BadAudioError, match="nowhere.wav: missing"):
        hear(tmp_path / "nowhere.wav")


def test_channels_that_are_not_aligned_are_refused() -> None:
    sound = bursts(2, [(0.5, 1)])
    assert hear(sound, np.zeros(len(sound) + 1919)).duration_sec == pytest.approx(2 + 1919 / 24_000)
    with pytest.raises(ValueError, match="user's channel lasts 2.00 s and the model's 2.08 s, but .* fill the shorter"):
        hear(sound, np.zeros(len(sound) + 1920))
    with pytest.raises(ValueError, match="Both channels hold the same sound: a mono recording has no turns"):
        hear(sound, sound.copy())
    with pytest.raises(ValueError, match=r"samples: the user's side must be one channel \[S\], got \[0\]"):
        hear(np.zeros(0), sound)
    with pytest.raises(ValueError, match="No conversation: there is nothing to measure"):
        turn_taking_numbers([])


def test_a_user_without_silence_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(turn_taking.logger, "warning", said.append)
    noise = bursts(4, [(0, 4)])
    hear(bursts(4, [(0, 3.7)]), np.zeros(96_000))
    assert said == []
    hear(noise, np.zeros(96_000))
    assert said == ["samples: the user is never silent. If that is a microphone's noise, take vad='silero'."]


def test_swapped_channels_are_known_by_the_words() -> None:
    user, model = bursts(10, [(1, 3)]), bursts(10, [(4, 8)], 1)
    words = [Word("word", 4.5 + 0.5 * place, 4.7 + 0.5 * place) for place in range(6)]
    assert hear(user, model, words=words).words == words
    with pytest.raises(ValueError, match="6 of the model's 6 words lie in the user's speech and 0 in the model's: the"):
        hear(model, user, words=words)


def test_an_hour_is_measured_in_20_seconds() -> None:
    rng = np.random.default_rng(0)
    edges = np.cumsum(rng.uniform(0.3, 2.5, 400))
    edges = edges[edges < 300][:-1].reshape(-1) if len(edges[edges < 300]) % 2 else edges[edges < 299]
    spans = edges[: len(edges) // 4 * 4].reshape(-1, 2, 2)
    user, model = (bursts(300, spans[:, side].tolist(), side) for side in range(2))
    start = time.process_time()
    turn_taking_numbers([hear(user, model)])
    assert time.process_time() - start < 20 / 12
