"""Audio of any rate and channel count is read at 24 kHz, in parts; frame counts are exact; bad files are refused."""

import math
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.audio import BadAudioError, audio_duration_sec, frames_from_sec, read_audio, sec_from_frames


def tone(duration_sec: float, rate_hz: int) -> np.ndarray:
    """A 440 Hz sine at half scale."""
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(int(duration_sec * rate_hz)) / rate_hz)).astype(np.float32)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.mark.parametrize(
    ("duration_sec", "frames"),
    [(0, 0), (1e-3, 1), (0.08, 1), (0.0801, 2), (0.16, 2), (1, 13), (2, 25), (2.32, 29), (60, 750), (3600, 45_000)],
)
def test_frames_of_known_durations(duration_sec: float, frames: int) -> None:
    assert frames_from_sec(duration_sec) == frames


def test_frames_are_the_exact_ceiling_of_1000_random_durations() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        duration_sec = rng.uniform(0, 7200)
        assert frames_from_sec(duration_sec) == math.ceil(Fraction(duration_sec) * Fraction(25, 2))


def test_frames_of_1000_random_sample_counts_are_those_of_the_codec() -> None:
    rng = random.Random(1)
    for _ in range(1000):
        samples = rng.choice([rng.randrange(1, 10**9), 1920 * rng.randrange(1, 10**6) + rng.choice([-1, 0, 1])])
        assert frames_from_sec(samples / 24_000) == -(-samples // 1920)


def test_seconds_of_frames_go_back_to_the_same_frames() -> None:
    assert [sec_from_frames(frames) for frames in (0, 1, 25, 750)] == [0.0, 0.08, 2.0, 60.0]
    assert all(frames_from_sec(sec_from_frames(frames)) == frames for frames in range(100_000))


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_part_is_the_slice_of_the_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(72_000), 24_000)
    whole = read_audio(path)
    assert whole.shape == (1, 72_000)
    assert whole.dtype == np.float32
    assert np.array_equal(read_audio(path, 1.25, 0.5), whole[:, 30_000:42_000])
    assert np.array_equal(read_audio(path, start_sec=2.9), whole[:, 69_600:])
    assert np.array_equal(read_audio(path, 2.5, 10.0), whole[:, 60_000:])


def test_only_the_asked_part_is_read(tmp_path: Path) -> None:
    samples = noise(72_000)
    samples[:24_000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 24_000, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav", 1.0, 1.0)[0], samples[24_000:48_000])


def test_stereo_keeps_left_before_right(tmp_path: Path) -> None:
    stereo_SC = np.stack([np.full(48_000, 0.5), np.full(48_000, -0.25)], axis=1)
    soundfile.write(tmp_path / "a.flac", stereo_SC, 24_000)
    samples_CS = read_audio(tmp_path / "a.flac", 0.5, 1.0)
    assert samples_CS.flags.c_contiguous
    assert samples_CS.shape == (2, 24_000)
    assert (samples_CS[0] == 0.5).all()
    assert (samples_CS[1] == -0.25).all()


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_becomes_24_khz(tmp_path: Path, rate_hz: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(3, rate_hz)] * channels, axis=1), rate_hz, subtype="FLOAT")
    samples_CS = read_audio(tmp_path / "a.wav", 1.0, 1.6)  # behind 440 whole periods
    assert samples_CS.shape == (channels, 38_400)
    middle = slice(2_400, -2_400)
    assert samples_CS[:, middle] == pytest.approx(np.stack([tone(1.6, 24_000)[middle]] * channels), abs=2e-3)
    assert audio_duration_sec(tmp_path / "a.wav") == 3.0


@pytest.mark.parametrize(
    "content",
    [b"", b"no audio at all" * 100, b"RIFF\x00\x00\x00\x00WAVE"],
    ids=["empty", "text", "header alone"],
)
def test_what_is_no_audio_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(BadAudioError, match=r"a\.wav: damaged or not an audio file"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(BadAudioError, match=r"a\.wav: not a readable audio file"):
        audio_duration_sec(tmp_path / "a.wav")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAudioError, match=r"none\.flac"):
        read_audio(tmp_path / "none.flac")
    with pytest.raises(BadAudioError, match=r"none\.flac"):
        audio_duration_sec(tmp_path / "none.flac")


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(0), 24_000)
    for read in (read_audio, audio_duration_sec):
        with pytest.raises(BadAudioError, match=r"a\.wav: holds no samples"):
            read(tmp_path / "a.wav")


@pytest.mark.parametrize("kept_share", [0.02, 0.5, 0.95])
def test_a_truncated_flac_is_refused(tmp_path: Path, kept_share: float) -> None:
    soundfile.write(tmp_path / "whole.flac", noise(48_000), 24_000)
    content = (tmp_path / "whole.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(content[: int(len(content) * kept_share)])
    with pytest.raises(BadAudioError, match=r"cut\.flac: damaged or not an audio file"):
        read_audio(tmp_path / "cut.flac")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    samples = noise(24_000)
    samples[12_345] = value
    soundfile.write(tmp_path / "a.wav", samples, 24_000, subtype="FLOAT")
    with pytest.raises(BadAudioError, match=r"a\.wav: holds samples that are NaN or infinite"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("start_sec", [-0.1, 2.0, 7.5, math.nan])
def test_a_start_outside_the_file_is_refused(tmp_path: Path, start_sec: float) -> None:
    soundfile.write(tmp_path / "a.wav", noise(48_000), 24_000)
    with pytest.raises(BadAudioError, match=rf"a\.wav: start {start_sec} s is outside its 2\.000 s"):
        read_audio(tmp_path / "a.wav", start_sec)


def test_bad_audio_is_a_value_error() -> None:
    assert issubclass(BadAudioError, ValueError)
