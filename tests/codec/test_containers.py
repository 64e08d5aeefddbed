"""Files that were cut off are refused whatever their container; odd outer lengths, pipes and placeholders are read."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
import sphn

from hf_moshi_ttt.codec.audio import BadAudioError, read_audio, read_header

SAMPLES = np.random.default_rng(0).uniform(-0.5, 0.5, 24_001).astype(np.float32)
UNKNOWN = [0x7FFFF000, 0x7FFFEFFE, 0x7FFFFFFF, 0x80000000, 0xFFFFFFDB, 0xFFFFFFFF]


@pytest.fixture
def wav(tmp_path: Path) -> bytes:
    """A WAV file of 24,001 samples of two bytes: the lengths stand at 4 and 40."""
    soundfile.write(tmp_path / "whole.wav", SAMPLES, 24_000)
    return (tmp_path / "whole.wav").read_bytes()


def with_lengths(content: bytes, outer: int, samples: int) -> bytes:
    return content[:4] + struct.pack("<I", outer) + content[8:40] + struct.pack("<I", samples) + content[44:]


@pytest.mark.parametrize("outer", [0, 36, 48_039, 48_046, 48_047, *UNKNOWN])
def test_the_outer_length_of_a_wav_does_not_matter(tmp_path: Path, wav: bytes, outer: int) -> None:
    (tmp_path / "a.wav").write_bytes(with_lengths(wav, outer, 48_002))
    assert np.array_equal(read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "whole.wav"))


@pytest.mark.parametrize("length", UNKNOWN)
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path: Path, wav: bytes, length: int) -> None:
    (tmp_path / "a.wav").write_bytes(with_lengths(wav, length, length))
    assert np.array_equal(read_audio(tmp_path / "a.wav"), read_audio(tmp_path / "whole.wav"))


def test_a_length_that_no_encoder_writes_is_a_cut(tmp_path: Path, wav: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(with_lengths(wav, 0x80000124, 0x80000100))
    with pytest.raises(BadAudioError, match=r"a\.wav: cut off, 48002 of 2147483904 bytes of samples are there"):
        read_header(tmp_path / "a.wav")


def test_a_length_of_zero_is_refused_with_a_remedy(tmp_path: Path, wav: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(with_lengths(wav, 36, 0))
    with pytest.raises(BadAudioError, match=r"says 0 bytes of samples, but 48002 bytes follow.*`ffmpeg -i IN OUT"):
        read_audio(tmp_path / "a.wav")


def test_chunks_after_the_samples_may_be_cut(tmp_path: Path, wav: bytes) -> None:
    listed = with_lengths(wav, 48_046 + 100, 48_002) + b"\0\0LIST" + struct.pack("<I", 92) + b"INFO"
    (tmp_path / "a.wav").write_bytes(listed)
    assert read_audio(tmp_path / "a.wav").shape == (1, 24_001)


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "CAF", "AU", "RIFX", "NIST"])
@pytest.mark.parametrize("kept_share", [0.5, 0.98])
def test_a_cut_is_found_under_any_name(tmp_path: Path, container: str, kept_share: float) -> None:
    options = {"format": "WAV", "endian": "BIG"} if container == "RIFX" else {"format": container}
    soundfile.write(tmp_path / "whole.wav", SAMPLES, 24_000, "PCM_16", **options)
    content = (tmp_path / "whole.wav").read_bytes()
    assert content[:4] == b"RIFX" or container != "RIFX"
    assert read_audio(tmp_path / "whole.wav").shape == (1, 24_001)
    (tmp_path / "cut.wav").write_bytes(content[: int(len(content) * kept_share)])
    for read in (read_audio, read_header):
        with pytest.raises(
            BadAudioError, match=r"cut\.wav: (cut off, \d+ of 48\d+ bytes of samples are there|not a re|da)"
        ):
            read(tmp_path / "cut.wav")


def test_formats_that_do_not_show_a_cut_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", SAMPLES, 24_000, format="PVF")
    with pytest.raises(BadAudioError, match=r"a\.wav: a PVF file, which does not show whether it is whole; convert"):
        read_audio(tmp_path / "a.wav")


def test_a_sphere_file_needs_its_number_of_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.sph", SAMPLES, 24_000, "ULAW", format="NIST")
    assert read_audio(tmp_path / "a.sph").shape == (1, 24_001)
    content = (tmp_path / "a.sph").read_bytes()
    (tmp_path / "a.sph").write_bytes(content.replace(b"sample_count -i", b"sample_sum00 -i"))
    with pytest.raises(
        BadAudioError, match=r"a\.sph: (a SPHERE file whose header does not say how long it is|not a re|da)"
    ):
        read_audio(tmp_path / "a.sph")


def write_ogg(path: Path, subtype: str = "VORBIS") -> bytes:
    soundfile.write(path, SAMPLES, 24_000, format="OGG", subtype=subtype)
    return path.read_bytes()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_second_stream_after_the_first_is_refused(tmp_path: Path, subtype: str) -> None:
    """libsndfile reads the first alone. With the same serial number only a reading of the file shows it."""
    first, second = write_ogg(tmp_path / "1.ogg", subtype), write_ogg(tmp_path / "2.ogg", subtype)
    path = tmp_path / "a.ogg"
    path.write_bytes(first + second)
    for read in (read_audio, read_header):
        with pytest.raises(BadAudioError, match=r"a\.ogg: holds several Ogg streams, one after the other.*join them"):
            read(path)
    path.write_bytes(first + first)
    for source in (path, path.read_bytes()):
        with pytest.raises(BadAudioError, match="holds several Ogg streams, one after the other"):
            read_audio(source)


def test_ogg_opus_of_sphn_is_refused_in_words_that_fit(tmp_path: Path) -> None:
    sphn.write_opus(str(tmp_path / "a.opus"), SAMPLES, 24_000)
    with pytest.raises(BadAudioError, match=r"a\.opus: cut off between two Ogg pages, or written by.* such as sphn.*f"):
        read_header(tmp_path / "a.opus")


def write_mp3(path: Path) -> bytes:
    soundfile.write(path, SAMPLES, 24_000)
    return path.read_bytes()


def test_a_cut_mp3_is_found_by_its_header(tmp_path: Path) -> None:
    content = write_mp3(tmp_path / "a.mp3")
    assert read_audio(tmp_path / "a.mp3").shape == (1, 24_001)
    (tmp_path / "a.mp3").write_bytes(content[: len(content) // 2])
    with pytest.raises(BadAudioError, match=rf"a\.mp3: cut off, {len(content) // 2} of {len(content)} bytes are there"):
        read_header(tmp_path / "a.mp3")


def test_an_mp3_behind_a_tag_is_read_and_one_without_a_header_refused(tmp_path: Path) -> None:
    content = write_mp3(tmp_path / "a.mp3")
    tag = b"ID3\x04\0\0" + bytes([0, 0, 2, 0]) + bytes(256)
    (tmp_path / "a.mp3").write_bytes(tag + content)
    assert read_header(tmp_path / "a.mp3").samples == 24_001
    (tmp_path / "a.mp3").write_bytes((tag + content)[:-100])
    with pytest.raises(BadAudioError, match="cut off"):
        read_header(tmp_path / "a.mp3")
    (tmp_path / "a.mp3").write_bytes(content.replace(b"Xing", b"\0\0\0\0"))
    with pytest.raises(BadAudioError, match=r"a\.mp3: an MP3 file without a Xing or Info header, so that nothing"):
        read_header(tmp_path / "a.mp3")
