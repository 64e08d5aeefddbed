"""Audio of any rate and channel count is read at 24 kHz, in parts; frame counts are exact; bad files are refused."""

import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from hf_moshi_ttt.codec import audio as audio_module
from hf_moshi_ttt.codec.audio import (
    BadAudioError,
    audio_duration_sec,
    frame_at_sec,
    frames_from_sec,
    read_audio,
    read_blocks,
    read_header,
    samples_at_24_khz,
    sec_from_frames,
    whole_frames,
)


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


def test_times_in_milliseconds_lie_in_their_exact_frame_whatever_they_were_subtracted_from() -> None:
    """Binary fractions alone would put 2.32 s, the start of frame 29, into frame 28."""
    assert (frame_at_sec(2.32), frame_at_sec(2.319), frame_at_sec(-0.001), frame_at_sec(0.0)) == (29, 28, -1, 0)
    for ms in range(0, 4_000_000, 73):
        assert frame_at_sec(ms / 1000) == ms // 80
        assert frames_from_sec(ms / 1000) == -(-ms // 80)
    for ms in range(0, 7_200_000, 1_240):
        window = random.Random(ms).randrange(90_000)
        assert frame_at_sec(ms / 1000 - window * 0.08) == ms // 80 - window


def test_an_unfinished_frame_is_filled_with_silence() -> None:
    assert [whole_frames(np.ones((2, samples))).shape for samples in (0, 1, 1920, 1921)] == [
        (2, 0), (2, 1920), (2, 1920), (2, 3840),
    ]  # fmt: skip
    assert whole_frames(np.ones(3)).sum() == 3


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


@pytest.mark.parametrize(
    ("name", "rate_hz", "channels", "options"),
    [
        ("a.ogg", 24_000, 1, {}), ("a.ogg", 44_100, 2, {}), ("a.mp3", 24_000, 1, {}), ("a.mp3", 44_100, 2, {}),
        ("a.opus", 24_000, 1, {"format": "OGG", "subtype": "OPUS"}),
        ("a.opus", 48_000, 2, {"format": "OGG", "subtype": "OPUS"}),
        ("a.wav", 24_000, 1, {"subtype": "IMA_ADPCM"}), ("a.wav", 24_000, 2, {"subtype": "MS_ADPCM"}),
        ("a.wav", 24_000, 1, {"subtype": "GSM610"}), ("a.caf", 24_000, 1, {"subtype": "ALAC_16"}),
    ],
    ids=str,
)  # fmt: skip
def test_parts_and_blocks_of_lossy_files_are_slices_of_the_whole(
    tmp_path: Path, name: str, rate_hz: int, channels: int, options: dict[str, str]
) -> None:
    """libsndfile's seeks into the last page of Vorbis are late, and those of Opus and MP3 lose the decoder's state."""
    path, samples = tmp_path / name, tone(4.013, rate_hz) + 0.2 * noise(int(4.013 * rate_hz))
    soundfile.write(path, np.stack([samples] * channels, axis=1), rate_hz, **options)
    decoded, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    length = len(decoded)
    for start in (0, 1, length // 3, length - rate_hz, length - 2000, length - 700, length - 100):
        part = np.concatenate(list(raw_parts(path, start, 700)))
        assert part.shape == decoded[start:].shape
        assert np.abs(part - decoded[start:]).max() < 2e-7, length - start  # MP3 rounds anew each time


def raw_parts(path: Path, start: int, most: int) -> Iterator[np.ndarray]:
    """Samples `[S, C]` from `start` on, at the file's own rate."""
    with audio_module._opened(path, "damaged") as file:
        audio_module._go_to(file, start)
        yield from audio_module._checked_parts(file, str(path), file.frames - start, most)


def test_content_in_memory_is_read_like_a_file(tmp_path: Path) -> None:
    for name, options in (("a.ogg", {}), ("a.opus", {"format": "OGG", "subtype": "OPUS"}), ("a.mp3", {})):
        soundfile.write(tmp_path / name, noise(48_000), 24_000, **options)
        content = (tmp_path / name).read_bytes()
        assert np.abs(read_audio(content, 1.9) - read_audio(tmp_path / name)[:, 45_600:]).max() < 2e-7


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
    samples_CS = read_audio(tmp_path / "a.wav", 1.0, 1.6)  # after 440 whole periods
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
    with pytest.raises(BadAudioError, match=r"a\.wav: (damaged or not an audio file|empty, it has 0 bytes)"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(BadAudioError, match=r"a\.wav: (not a readable audio file|empty, it has 0 bytes)"):
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


@pytest.mark.parametrize("suffix", ["wav", "ogg"])
@pytest.mark.parametrize("kept_share", [0.3, 0.7, 0.999])
def test_a_cut_off_container_is_refused(tmp_path: Path, suffix: str, kept_share: float) -> None:
    """soundfile itself reads what is left as if that were all."""
    soundfile.write(tmp_path / f"whole.{suffix}", noise(240_000), 24_000)
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(content[: int(len(content) * kept_share)])
    for read in (read_audio, read_header):
        with pytest.raises(BadAudioError, match=rf"cut\.{suffix}: cut off"):
            read(path)
    assert read_audio(tmp_path / f"whole.{suffix}").shape == (1, 240_000)


def test_an_ogg_file_cut_between_pages_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", noise(240_000), 24_000)
    content = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(content[: content.rfind(b"OggS")])
    with pytest.raises(BadAudioError, match=r"a\.ogg: cut off between two Ogg pages, or written by a program"):
        read_audio(tmp_path / "a.ogg")


def test_a_flac_header_without_a_length_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(2400), 24_000)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # the 36 bits of the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    for read in (read_audio, read_header):
        with pytest.raises(BadAudioError, match=r"a\.flac: its header does not say how long it is; encode it again"):
            read(tmp_path / "a.flac")


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 24_000, 44_100])
@pytest.mark.parametrize("block_frames", [1, 7, 750])
def test_blocks_are_the_pieces_of_the_whole(tmp_path: Path, rate_hz: int, block_frames: int) -> None:
    samples = np.stack([noise(rate_hz * 2 + 137), tone(3, rate_hz)[: rate_hz * 2 + 137]], axis=1)
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    whole = samples if rate_hz == 24_000 else soxr.resample(samples, rate_hz, 24_000)
    blocks = list(read_blocks(tmp_path / "a.wav", block_frames=block_frames))
    assert all(block.shape == (2, block_frames * 1920) and block.flags.c_contiguous for block in blocks[:-1])
    joined = np.concatenate(blocks, axis=1)
    assert joined.shape[1] == samples_at_24_khz(len(samples), rate_hz) == math.ceil(len(samples) * 24_000 / rate_hz)
    assert np.array_equal(joined[:, : len(whole)], whole.T[:, : joined.shape[1]])
    assert np.array_equal(read_audio((tmp_path / "a.wav").read_bytes()), joined)


def test_damage_behind_the_first_block_is_found_when_it_is_reached(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise(480_000), 24_000)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) * 3 // 4])
    blocks = read_blocks(tmp_path / "a.flac", block_frames=25)
    assert next(blocks).shape == (1, 48_000)
    with pytest.raises(BadAudioError, match=r"a\.flac: damaged"):
        list(blocks)


def test_a_header_says_samples_rate_and_channels(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((11_025, 2)), 22_050)
    header = read_header(tmp_path / "a.wav")
    assert (header.samples, header.rate_hz, header.channels, header.duration_sec) == (11_025, 22_050, 2, 0.5)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_sound_stays_where_it_is(rate_hz: int, tmp_path: Path) -> None:
    """A click at 1 s; resampled by sphn it is up to 64 ms late."""
    click = np.zeros(2 * rate_hz, np.float32)
    click[rate_hz] = 0.9
    soundfile.write(tmp_path / "click.wav", click, rate_hz)
    assert read_audio(tmp_path / "click.wav")[0].argmax() == 24_000
    assert read_audio(tmp_path / "click.wav", 0.5, 1.0)[0].argmax() == 12_000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    samples = noise(24_000)
    samples[12_345] = value
    soundfile.write(tmp_path / "a.wav", samples, 24_000, subtype="FLOAT")
    with pytest.raises(BadAudioError, match=r"a\.wav: holds samples that are NaN or infinite"):
        read_audio(tmp_path / "a.wav")


def test_integers_stored_as_floats_are_refused_with_their_peak(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(24_000) * 32_767, 24_000, subtype="FLOAT")
    with pytest.raises(BadAudioError, match=r"a\.wav: the peak is 16\d+(\.\d)?, but samples lie in .*: they look like"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("start_sec", [-0.1, 2.0, 7.5, math.nan])
def test_a_start_outside_the_file_is_refused(tmp_path: Path, start_sec: float) -> None:
    soundfile.write(tmp_path / "a.wav", noise(48_000), 24_000)
    with pytest.raises(BadAudioError, match=rf"a\.wav: start {start_sec} s is outside its 2\.000 s"):
        read_audio(tmp_path / "a.wav", start_sec)


def test_bad_audio_is_a_value_error() -> None:
    assert issubclass(BadAudioError, ValueError)
