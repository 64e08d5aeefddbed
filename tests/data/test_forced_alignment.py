"""Words come back where they are spoken and spelt as written; what is unknown, stereo or not spoken is reported."""

import sys

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from hf_moshi_ttt.data import forced_alignment
from hf_moshi_ttt.data.forced_alignment import align_words, dictionary_spelling, unknown_words
from hf_moshi_ttt.demo.books import SAMPLE_RATE_HZ, TRAIN_VOICES

PHRASES = ("Good morning,", "thank you.", "Seven apples", "on Monday!")
GAP_SEC = 0.6


def speech_bounds(samples: NDArray[np.float32]) -> tuple[int, int]:
    """First and last sample louder than a twentieth of the peak."""
    loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
    return int(loud[0]), int(loud[-1])


@pytest.fixture(scope="module")
def phrases() -> tuple[NDArray[np.float32], list[tuple[float, float]]]:
    """Four phrases with silence between, and the seconds at which each begins and ends."""
    parts: list[NDArray[np.float32]] = []
    bounds_sec = []
    for seed, phrase in enumerate(PHRASES):
        spoken = TRAIN_VOICES[0].say(phrase, seed)
        first, last = speech_bounds(spoken)
        parts += [np.zeros(int(GAP_SEC * SAMPLE_RATE_HZ), np.float32), spoken[first:last]]
        end_sec = sum(map(len, parts)) / SAMPLE_RATE_HZ
        bounds_sec.append((end_sec - (last - first) / SAMPLE_RATE_HZ, end_sec))
    return np.concatenate(parts), bounds_sec


def test_words_are_found_where_they_were_put(phrases: tuple[NDArray[np.float32], list[tuple[float, float]]]) -> None:
    samples, bounds_sec = phrases
    aligned = align_words(samples, SAMPLE_RATE_HZ, " ".join(PHRASES))
    assert [word for word, _ in aligned] == " ".join(PHRASES).split()
    for place, (start_sec, end_sec) in enumerate(bounds_sec):
        assert aligned[2 * place][1][0] == pytest.approx(start_sec, abs=0.12)
        assert aligned[2 * place + 1][1][1] == pytest.approx(end_sec, abs=0.15)
    times_sec = [time_sec for _, interval in aligned for time_sec in interval]
    assert times_sec == sorted(times_sec) and times_sec[-1] <= len(samples) / SAMPLE_RATE_HZ


def test_times_do_not_depend_on_rate_or_on_what_came_before(
    phrases: tuple[NDArray[np.float32], list[tuple[float, float]]],
) -> None:
    samples, _ = phrases
    text = " ".join(PHRASES)
    first = align_words(samples, SAMPLE_RATE_HZ, text)
    at_48k = align_words(soxr.resample(samples, SAMPLE_RATE_HZ, 48_000), 48_000, text)
    assert align_words(samples, SAMPLE_RATE_HZ, text) == first
    assert [word for word, _ in at_48k] == [word for word, _ in first]
    assert np.allclose([times for _, times in at_48k], [times for _, times in first], atol=0.03)


def test_compound_comes_back_whole_and_unknown_word_is_left_out() -> None:
    text = "A well-known xyzzyq, he said; isn't it?"
    samples = TRAIN_VOICES[0].say("A well-known, he said; isn't it?", 0)
    found = [word for word, _ in align_words(samples, SAMPLE_RATE_HZ, text)]
    assert found == ["A", "well-known", "he", "said;", "isn't", "it?"]
    assert unknown_words(text) == ["xyzzyq,"]


@pytest.mark.parametrize(
    "token, words",
    [
        ("Isn’t", ["isn't"]),
        ("(Hello)", ["hello"]),
        ("up-to-date,", ["up", "to", "date"]),
        ("yes—no", ["yes", "no"]),
        ("1995", []),
        ("—", []),
        ("qzxv-day", []),
        ("<sil>", []),
    ],
)
def test_dictionary_spelling(token: str, words: list[str]) -> None:
    assert dictionary_spelling(token) == words


def test_text_without_a_known_word_gives_nothing() -> None:
    assert align_words(np.zeros(24_000, np.float32), SAMPLE_RATE_HZ, "xyzzyq 1995 —") == []
    assert unknown_words("xyzzyq 1995 —") == ["xyzzyq", "1995"]


def test_a_missing_aligner_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    forced_alignment._decoder.cache_clear()
    with pytest.raises(ImportError, match=r"Alignment needs pocketsphinx: pip install 'hf_moshi_ttt\[align\]'"):
        unknown_words("hello")


def test_two_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(24000, 2\), but one channel"):
        align_words(np.zeros((24_000, 2), np.float32), SAMPLE_RATE_HZ, "hello")


def test_text_that_cannot_fit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"40 words were to be aligned in 0\.50 s .*give the text that is spoken there"
    ):
        align_words(np.zeros(12_000, np.float32), SAMPLE_RATE_HZ, "conversation " * 40)


def test_times_do_not_depend_on_what_was_aligned_before() -> None:
    texts = ["The dog ran over the green hill and slept.", "What is the answer to this question?", "Yes, of course."]
    spoken = [(voice.say(text, seed=5), text) for voice in TRAIN_VOICES[:4] for text in texts]
    forwards = [align_words(samples, SAMPLE_RATE_HZ, text) for samples, text in spoken]
    backwards = [align_words(samples, SAMPLE_RATE_HZ, text) for samples, text in reversed(spoken)]
    assert backwards[::-1] == forwards
