"""Waveforms become codes in pieces of any length by either codec; datasets of codes know where they come from."""

import io
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import IterableDataset
from pyarrow import parquet

from hf_moshi_ttt.codec.audio import FRAME_SAMPLES, BadAudioError, read_audio
from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecConfig, LogMelCodecModel
from hf_moshi_ttt.codec.pretrained_codec import codec_sha256, load_codec
from hf_moshi_ttt.data.codes import (
    Provenance,
    decode_codes,
    encode_streams,
    encode_waveform,
    load_codes,
    silence_codes,
)
from hf_moshi_ttt.demo.debian_packages import PROMPTS_PACKAGE

from ..conftest import chirps_S, save_codes
from ..fixtures.corpora import unpacked
from ..fixtures.hub_stand_in import running_hub
from ..fixtures.speech import real_conversation

BOTH = pytest.mark.parametrize("codec_fixture", ["codec_path", "mimi_path"])


def blocks(samples_CS: np.ndarray, frames: int) -> Iterator[np.ndarray]:
    step = frames * FRAME_SAMPLES
    for start in range(0, samples_CS.shape[1], step):
        yield samples_CS[:, start : start + step]


@BOTH
def test_waveforms_to_codes_and_back(codec_fixture: str, request: pytest.FixtureRequest) -> None:
    codec = load_codec(request.getfixturevalue(codec_fixture))
    samples_CS = np.stack([chirps_S(0.5, 1), chirps_S(0.5, 2)])
    codes_CQT = encode_waveform(codec, samples_CS)
    assert (codes_CQT.shape, codes_CQT.dtype) == ((2, 8, 7), np.int16)
    assert len(np.unique(codes_CQT)) > 10
    assert np.array_equal(encode_waveform(codec, samples_CS[1:])[0], codes_CQT[1])
    samples_S = decode_codes(codec, codes_CQT[0])
    assert samples_S.shape == (7 * FRAME_SAMPLES,)
    assert np.isfinite(samples_S).all()


@BOTH
@pytest.mark.parametrize("frames", [1, 3, 25])
def test_codes_of_pieces_are_those_of_the_whole(
    codec_fixture: str, frames: int, request: pytest.FixtureRequest
) -> None:
    """Beyond the 20 positions (10 frames) that the Mimi of this test looks back."""
    codec = load_codec(request.getfixturevalue(codec_fixture))
    samples_CS = chirps_S(4.9, 1)[None]
    with torch.no_grad():
        padded = np.pad(samples_CS, ((0, 0), (0, -samples_CS.shape[1] % FRAME_SAMPLES)))
        whole = codec.encode(torch.from_numpy(padded)[None], num_quantizers=8).audio_codes[0].numpy()
    (pieces,) = encode_streams(codec, [blocks(samples_CS, frames)])
    assert pieces.shape == (1, 8, 62) and np.array_equal(pieces[0], whole)


def test_frames_of_real_speech_are_exact_over_1000_durations_and_rates(
    codec_path: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """ceil(duration x 12.5) in whole numbers, from a file of any rate through resampler and codec to codes."""
    speech = real_conversation(unpacked(tmp_path_factory, PROMPTS_PACKAGE), turns=2, seed=0).samples_CS[0]
    codec = load_codec(codec_path)
    rng = random.Random(0)
    for _ in range(1000):
        rate_hz = rng.choice([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, rng.randrange(4_000, 96_000)])
        whole = rng.randrange(1, 4) * 2 * rate_hz // 25  # near the edge of a frame
        samples = rng.choice([rng.randrange(1, rate_hz), max(1, whole + rng.choice([-1, 0, 1]))])
        file = io.BytesIO()
        soundfile.write(file, speech[:samples], rate_hz, format="WAV")
        codes = encode_waveform(codec, read_audio(file.getvalue()))
        assert codes.shape == (1, 8, math.ceil(Fraction(samples, rate_hz) * Fraction(25, 2))), (samples, rate_hz)


@BOTH
def test_recordings_side_by_side_are_encoded_as_alone(codec_fixture: str, request: pytest.FixtureRequest) -> None:
    """Also where one ends early, has two channels, or breaks off; only the broken one is lost."""
    codec = load_codec(request.getfixturevalue(codec_fixture))
    recordings = [chirps_S(1.3, 1)[None], np.stack([chirps_S(2.1, 2), chirps_S(2.1, 3)]), chirps_S(0.5, 4)[None]]

    def broken() -> Iterator[np.ndarray]:
        yield chirps_S(0.8, 5)[None]
        raise BadAudioError("a.flac: damaged")

    def empty() -> Iterator[np.ndarray]:
        yield from ()

    streams = [blocks(recordings[0], 10), broken(), blocks(recordings[1], 10), empty(), blocks(recordings[2], 10)]
    first, error, second, nothing, third = encode_streams(codec, streams)
    assert str(error) == "a.flac: damaged" and isinstance(error, BadAudioError)
    assert isinstance(nothing, BadAudioError)
    for codes, samples_CS in zip((first, second, third), recordings, strict=True):
        assert np.array_equal(codes, encode_waveform(codec, samples_CS))


def test_the_codes_of_silence_are_those_far_from_its_start(mimi_path: str) -> None:
    codec = load_codec(mimi_path)
    codes_QT = encode_waveform(codec, np.zeros((1, 480_000), dtype=np.float32))[0]
    assert silence_codes(codec) == codes_QT[:, -1].tolist() != codes_QT[:, 0].tolist()
    assert (codes_QT[:, 20:] == codes_QT[:, -1:]).all()


def test_a_codec_of_other_rates_is_refused(tmp_path: Path) -> None:
    LogMelCodecModel(LogMelCodecConfig(frame_rate=25.0, codebook_size=4)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"\(samples/s, frames/s\) = \(24000, 25\.0\), but Moshi needs \(24000, 12\.5\)"
    ):
        load_codec(str(tmp_path))


def test_the_hash_of_a_codec_is_that_of_its_weights(codec_path: str, mimi_path: str, tmp_path: Path) -> None:
    codec = load_codec(codec_path)
    codec.save_pretrained(tmp_path)
    assert codec_sha256(load_codec(str(tmp_path))) == codec_sha256(codec) != codec_sha256(load_codec(mimi_path))
    codec.codebooks[3, 5, 1] += 1e-3
    assert codec_sha256(codec) != codec_sha256(load_codec(codec_path))


def test_a_folder_without_codes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no encoded corpus\. Make one with hf-moshi-ttt prepare"):
        load_codes(tmp_path)


@pytest.mark.parametrize("content", ["", '{"codec": "x', "[]"])
def test_a_provenance_that_is_not_whole_is_named(tmp_path: Path, content: str) -> None:
    folder = save_codes(tmp_path / "codes", [30])
    (folder / "provenance.json").write_text(content)
    with pytest.raises(ValueError, match=r"codes/provenance.json: .* encode again with hf-moshi-ttt prepare"):
        load_codes(folder)


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "state.json", "dataset_info.json"])
@pytest.mark.parametrize("length", [None, 0, 100])
def test_codes_that_are_not_whole_are_named(tmp_path: Path, name: str, length: int | None) -> None:
    path = save_codes(tmp_path / "codes", [30]) / name
    whole = path.read_bytes()
    path.unlink()
    if length is not None:
        path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"codes: damaged codes \(.* encode again with hf-moshi-ttt prepare"):
        load_codes(path.parent)


def test_provenance_of_another_form_is_refused(tmp_path: Path) -> None:
    folder = save_codes(tmp_path / "codes", [5])
    content = (folder / "provenance.json").read_text()
    (folder / "provenance.json").write_text(content.replace('"codec"', '"coder"'))
    with pytest.raises(ValueError, match=r"provenance\.json: unknown keys \['coder'\]; was it written by a newer"):
        load_codes(folder)
    (folder / "provenance.json").write_text("{}")
    with pytest.raises(ValueError, match=r"provenance\.json: .*missing 7 required positional arguments"):
        load_codes(folder)


def test_codes_can_be_streamed(tmp_path: Path) -> None:
    folder = save_codes(tmp_path / "codes", [5, 7])
    stream, provenance = load_codes(folder, streaming=True)
    assert isinstance(stream, IterableDataset) and provenance.codec == "tests/random"
    for row, expected in zip(stream, load_codes(folder)[0], strict=True):
        assert np.array_equal(row["codes"], expected["codes"])


def test_a_mixture_of_codes_has_the_provenance_of_all(tmp_path: Path) -> None:
    first, second = save_codes(tmp_path / "a", [50] * 30), save_codes(tmp_path / "b", [500] * 3, rows=17)
    change(second, text_tokenizer="t.model", tokenizer_sha256="5", tokens_beyond_end=3, left_out={"x": "bad"})
    codes, provenance = load_codes({str(first): 1.0, str(second): 1.0}, seed=1)
    assert {np.stack(row["codes"]).shape for row in codes} == {(8, 50), (17, 500)}
    assert (provenance.text_tokenizer, provenance.tokens_beyond_end, provenance.left_out) == (
        "t.model",
        3,
        {"x": "bad"},
    )
    assert provenance.fingerprint != load_codes({str(first): 1.0, str(second): 2.0})[1].fingerprint


def test_codes_of_different_makers_are_not_mixed(tmp_path: Path) -> None:
    first, second = save_codes(tmp_path / "a", [5]), save_codes(tmp_path / "b", [5], codebook_size=64)
    with pytest.raises(
        ValueError, match="do not go together: codebook_size is 32 in the first and 64 in the second. Encode"
    ):
        load_codes({str(first): 1.0, str(second): 1.0})
    change(second, codebook_size=32, text_tokenizer="t.model", tokenizer_sha256="5")
    change(first, text_tokenizer="t.model", tokenizer_sha256="6")
    with pytest.raises(ValueError, match=r"cannot be mixed: their text tokenizers \['t.model', 't.model'\] differ"):
        load_codes({str(first): 1.0, str(second): 1.0})


def change(folder: Path, **values: object) -> None:
    provenance = Provenance.load(folder / "provenance.json")
    for key, value in values.items():
        setattr(provenance, key, value)
    provenance.save(folder)


HUB = """
import sys
import numpy as np
from datasets import Dataset, IterableDataset
from hf_moshi_ttt.data.codes import load_codes, push_codes

folder = sys.argv[1]
push_codes(folder, "user/codes")
local, provenance = load_codes(folder)
for streaming, kind in ((True, IterableDataset), (False, Dataset)):
    rows, said = load_codes("user/codes", streaming=streaming)
    assert isinstance(rows, kind) and said == provenance
    for row, expected in zip(rows, local, strict=True):
        assert row["path"] == expected["path"] and np.array_equal(row["codes"], expected["codes"])
try:
    load_codes("user/other")
except ValueError as error:
    print(error)
"""


def test_published_codes_are_streamed_and_loaded_again(tmp_path: Path) -> None:
    """In a process of its own, on a stand-in of the Hub."""
    folder = save_codes(tmp_path / "codes", [5, 7, 9])
    with running_hub() as hub:
        command = [sys.executable, "-c", HUB, str(folder)]
        done = subprocess.run(command, env=hub.environment(tmp_path / "home"), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        files = hub.repos["user/codes"]
    assert files["provenance.json"] == (folder / "provenance.json").read_bytes()
    assert set(files) == {"README.md", "provenance.json", "data/train-00000-of-00001.parquet"}
    published = parquet.read_table(io.BytesIO(files["data/train-00000-of-00001.parquet"]))
    assert published["codes"].to_pylist() == [row["codes"].tolist() for row in load_codes(folder)[0]]
    assert done.stdout.startswith("user/other: no encoded corpus there, nor on the Hub under this name (")
