"""Speakers of the unpacked program: the same sample for sample, different from each other, and none in both splits."""

import numpy as np
import pytest

from hf_moshi_ttt.demo import espeak as espeak_module
from hf_moshi_ttt.demo.debian_packages import packages_to_install
from hf_moshi_ttt.demo.espeak import ACCENTS, HELDOUT_EVERY, PACKAGES, UNVOICED_VARIANTS, Espeak, EspeakVoice

from ..fixtures.corpora import package_cache

TEXT = "You must allow me to tell you how ardently I admire you."


@pytest.fixture(scope="module")
def espeak(tmp_path_factory: pytest.TempPathFactory) -> Espeak:
    return Espeak.unpack(package_cache(tmp_path_factory))


def test_libraries_that_the_machine_lacks_are_fetched(
    espeak: Espeak, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = packages_to_install(PACKAGES[0], package_cache(tmp_path_factory))
    monkeypatch.setattr(espeak_module, "PACKAGES", [name for name in PACKAGES if name != "libsonic0"])
    others = Espeak.unpack(package_cache(tmp_path_factory))
    assert any(folder.name.startswith("libsonic0_") for folder in others.dependencies) or "libsonic0" not in found
    voice = EspeakVoice("en-us", "m1", 50, 170, 1.0)
    assert np.array_equal(voice.say(others, "Every one of them."), voice.say(espeak, "Every one of them."))


def test_no_variant_is_in_both_splits(espeak: Espeak) -> None:
    train, heldout = espeak.variants("train"), espeak.variants("heldout")
    assert not set(train) & set(heldout) and not set(UNVOICED_VARIANTS) & {*train, *heldout}
    assert len(train) > 60 and len(heldout) == -(-(len(train) + len(heldout)) // HELDOUT_EVERY)
    assert espeak.sources[0].startswith("espeak-ng 1.")


def test_a_speaker_says_the_same_alike_and_others_do_not(espeak: Espeak) -> None:
    voice = EspeakVoice("en-us", "m1", 50, 170, 1.0)
    first = voice.say(espeak, TEXT)
    assert first.dtype == np.float32 and 2 < len(first) / 24_000 < 5 and 0.05 < np.abs(first).max() <= 1
    assert np.array_equal(first, voice.say(espeak, TEXT))
    larger = EspeakVoice("en-us", "m1", 50, 170, 0.8).say(espeak, TEXT)
    assert len(larger) == pytest.approx(len(first) / 0.8, rel=0.01)
    for other in (EspeakVoice("en-gb", "m1", 50, 170, 1.0), EspeakVoice("en-us", "f2", 50, 170, 1.0)):
        assert not np.array_equal(first, other.say(espeak, TEXT))


def test_every_variant_speaks(espeak: Espeak) -> None:
    for variant in (*espeak.variants("train")[::12], *espeak.variants("heldout")[::4], "Mr serious"):
        assert len(EspeakVoice("en-029", variant, 40, 160, 0.9).say(espeak, "Every one of them.")) > 10_000, variant


def test_voices_are_drawn_and_named() -> None:
    voices = [EspeakVoice.draw(["m1", "Mr serious"], np.random.default_rng(seed)) for seed in range(20)]
    assert len({voice.name for voice in voices}) == 20 and not any(" " in voice.name for voice in voices)
    anew = voices[0].spoken_anew(np.random.default_rng(0), 0.1)
    assert anew != voices[0] and anew.variant == voices[0].variant and anew.size == voices[0].size
    assert abs(anew.words_per_min / voices[0].words_per_min - 1) < 0.11


def test_accents_are_different_ones(espeak: Espeak) -> None:
    said = [EspeakVoice(accent, "m1", 50, 170, 1.0).say(espeak, TEXT).tobytes() for accent in ACCENTS]
    assert len(set(said)) == len(ACCENTS)


def test_unknown_variants_and_failures_are_refused(espeak: Espeak) -> None:
    with pytest.raises(ValueError, match="variant 'nobody', but espeak-ng has Alex, "):
        EspeakVoice("en-us", "nobody", 50, 170, 1.0).say(espeak, TEXT)
    with pytest.raises(RuntimeError, match="espeak-ng ended with status 0 for 'a': .*unrecognized option"):
        espeak.speak("a", ["--nothing-like-it"])
