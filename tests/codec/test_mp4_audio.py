"""M4A files are read as every other format: aligned, in parts equal to the whole, refused where they are damaged."""

import sys
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from hf_moshi_ttt.codec.audio import BadAudioError, read_audio, read_blocks, read_header
from hf_moshi_ttt.codec.containers import is_mp4
from hf_moshi_ttt.codec.mp4_audio import Mp4File, require_whole_boxes

SAMPLES = 60_000


def write_m4a(path: Path, samples_CS: np.ndarray, rate_hz: int, codec: str) -> Path:
    """Writes int16 samples as FFmpeg does: with the encoder's delay in an edit list."""
    layout = {1: "mono", 2: "stereo"}[len(samples_CS)]
    with av.open(path, "w", format="ipod") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        stream.codec_context.open()
        wanted = av.AudioResampler(stream.format, layout, rate_hz, frame_size=stream.codec_context.frame_size)
        frame = av.AudioFrame.from_ndarray(samples_CS, format="s16p", layout=layout)
        frame.rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        for piece in [*wanted.resample(frame), *wanted.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def samples_CS() -> np.ndarray:
    times_sec = np.arange(SAMPLES) / 24_000
    left = 0.3 * np.sin(2 * np.pi * (300 + 200 * times_sec) * times_sec)
    return (np.stack([left, 0.5 * left[::-1]]) * 32_768).astype(np.int16)


@pytest.fixture(scope="module")
def alac(samples_CS: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_m4a(tmp_path_factory.mktemp("alac") / "a.m4a", samples_CS, 24_000, "alac")


@pytest.fixture(scope="module")
def aac(samples_CS: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_m4a(tmp_path_factory.mktemp("aac") / "a.m4b", samples_CS, 24_000, "aac")


def test_lossless_samples_are_those_that_were_written(alac: Path, samples_CS: np.ndarray) -> None:
    header = read_header(alac)
    assert (header.samples, header.rate_hz, header.channels) == (SAMPLES, 24_000, 2)
    np.testing.assert_array_equal(read_audio(alac), samples_CS.astype(np.float32) / 32_768)
    np.testing.assert_array_equal(read_audio(alac.read_bytes()), read_audio(alac))


def test_the_encoders_delay_is_left_out(aac: Path, samples_CS: np.ndarray) -> None:
    """The length is the file's, which is in milliseconds; what is heard is where it was."""
    heard_CS, said_CS = read_audio(aac), samples_CS.astype(np.float32) / 32_768
    assert abs(heard_CS.shape[1] - SAMPLES) <= 24 and read_header(aac).samples == heard_CS.shape[1]
    least = min(SAMPLES, heard_CS.shape[1]) - 2048
    errors = [np.abs(heard_CS[0, 2048:least] - said_CS[0, 2048 + lag : least + lag]).mean() for lag in (-1, 0, 1)]
    assert errors[1] < 0.01 and errors[1] < 0.5 * min(errors[0], errors[2])


@pytest.mark.parametrize("name", ["alac", "aac"])
def test_parts_and_blocks_are_slices_of_the_whole(name: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(name)
    whole = read_audio(path)
    np.testing.assert_array_equal(read_audio(path, 1.3, 0.7), whole[:, 31_200:48_000])
    np.testing.assert_array_equal(read_audio(path, 2.4), whole[:, 57_600:])
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, block_frames=3)), axis=1), whole)


def test_mono_at_another_rate_is_resampled(samples_CS: np.ndarray, tmp_path: Path) -> None:
    path = write_m4a(tmp_path / "a.m4a", samples_CS[:1, :44_100], 44_100, "alac")
    assert read_audio(path).shape == (1, 24_000) and read_header(path).duration_sec == 1


@pytest.mark.parametrize("codec", ["alac", "aac"])
def test_loud_stereo_keeps_its_level(codec: str, tmp_path: Path) -> None:
    """PyAV would mix a tone of 0.8 in both channels to 1.13."""
    tone = 0.8 * np.sin(2 * np.pi * 440 * np.arange(SAMPLES) / 24_000)
    samples_CS = (np.stack([tone, tone]) * 32_767).astype(np.int16)
    heard_CS = read_audio(write_m4a(tmp_path / "a.m4a", samples_CS, 24_000, codec))
    peaks = np.abs(heard_CS[:, 4_800:-4_800]).max(1)
    assert heard_CS.shape[0] == 2 and np.abs(peaks - 0.8).max() < 0.02
    assert abs(np.abs(heard_CS.mean(0)[4_800:-4_800]).max() - 0.8) < 0.02


def test_a_length_rounded_up_is_made_up_by_zeros(alac: Path) -> None:
    with Mp4File(str(alac)) as file:
        file.frames += 24
        read_SC = file.read(SAMPLES + 100)
    assert len(read_SC) == SAMPLES + 24 and not read_SC[SAMPLES:].any()
    with Mp4File(str(alac)) as file:
        file.frames += 25
        assert len(file.read(SAMPLES + 100)) == SAMPLES


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_refused(alac: Path, tmp_path: Path, part: float) -> None:
    content = alac.read_bytes()
    (tmp_path / "cut.m4a").write_bytes(content[: int(part * len(content))])
    with pytest.raises(BadAudioError, match=r"cut\.m4a: cut off, \d+ of \d+ bytes"):
        read_header(tmp_path / "cut.m4a")


def test_boxes_are_counted_to_their_end() -> None:
    box = (16).to_bytes(4, "big")
    assert is_mp4(BytesIO(box + b"ftyp" + bytes(8))) and not is_mp4(BytesIO(b"RIFF"))
    with pytest.raises(BadAudioError, match=r"a: cut off, nothing in it describes its sound \(moov\)"):
        require_whole_boxes("a", BytesIO(box + b"ftyp" + bytes(8)))
    long_box = (1).to_bytes(4, "big") + b"mdat" + (24).to_bytes(8, "big") + bytes(8)
    open_box = bytes(4) + b"moov" + bytes(3)
    require_whole_boxes("a", BytesIO(box + b"ftyp" + bytes(8) + long_box + open_box))
    with pytest.raises(BadAudioError, match="a: cut off, 20 of 24 bytes"):
        require_whole_boxes("a", BytesIO(long_box[:20]))


def test_damage_and_a_missing_decoder_are_named(alac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(alac.read_bytes())
    at = content.index(b"moov") + 4
    content[at : at + 40] = bytes(40)
    (tmp_path / "b.m4a").write_bytes(content)
    with pytest.raises(BadAudioError, match=r"b\.m4a: (damaged or not an audio file|holds 0 audio streams)"):
        read_header(tmp_path / "b.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BadAudioError, match=r"PyAV, which is not installed: pip install 'hf_moshi_ttt\[m4a\]'"):
        read_header(alac)
