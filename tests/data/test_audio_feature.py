"""A column of audio files stays lazy through datasets' operations, and parts of its files are read by seeking."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset, Features, Value, interleave_datasets, load_from_disk

from hf_moshi_ttt.data.audio_feature import AudioFile, SeekingAudio

FEATURES = Features({"audio": SeekingAudio(), "number": Value("int64")})


@pytest.fixture
def stereo(tmp_path: Path) -> Path:
    """Two seconds of two channels at 16 kHz."""
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (32_000, 2)), 16_000)
    return tmp_path / "a.wav"


@pytest.fixture
def dataset(stereo: Path) -> Dataset:
    return Dataset.from_list([{"audio": str(stereo), "number": number} for number in range(4)], features=FEATURES)


def test_a_row_is_a_path_that_can_be_read(dataset: Dataset, stereo: Path) -> None:
    audio = dataset[0]["audio"]
    assert audio == audio["path"] == str(stereo) and audio["bytes"] is None
    assert audio.read().shape == (2, 48_000)
    assert np.array_equal(audio["array"], audio.read())
    assert audio["sampling_rate"] == 24_000
    assert audio.read(1.0, 0.5).shape == (2, 12_000)
    with pytest.raises(KeyError, match="'other'"):
        audio["other"]


def test_mono_has_one_axis_as_in_datasets(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "m.wav", np.zeros(100), 24_000)
    assert AudioFile(str(tmp_path / "m.wav"))["array"].shape == (100,)


def test_the_feature_survives_what_datasets_does(dataset: Dataset, stereo: Path, tmp_path: Path) -> None:
    dataset.save_to_disk(str(tmp_path / "saved"))  # which puts the content of files into the rows
    doubled = dataset.map(lambda row: {"number": 2 * row["number"]}, num_proc=2)
    stream = dataset.to_iterable_dataset(num_shards=2)
    doubled_stream = stream.map(lambda row: {"number": 2 * row["number"]}, features=FEATURES)
    for rows in (
        load_from_disk(str(tmp_path / "saved")), doubled, stream, dataset.filter(lambda row: row["number"] > 1),
        doubled_stream, interleave_datasets([dataset, doubled]),
    ):  # fmt: skip
        assert rows.features == FEATURES
        row = next(iter(rows))
        assert isinstance(row["audio"], AudioFile) and Path(row["audio"]["path"]).name == stereo.name
        assert np.array_equal(row["audio"].read(0.5, 1.0), dataset[0]["audio"].read(0.5, 1.0))


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("stored", [False, True], ids=["on disk", "in the dataset"])
def test_formats_leave_the_audio_readable(dataset: Dataset, tmp_path: Path, name: str, stored: bool) -> None:
    """Formats of datasets turn dicts into plain ones, but leave texts alone."""
    expected = dataset[0]["audio"].read(0.5, 1.0)
    if stored:
        dataset.save_to_disk(str(tmp_path / "saved"))
        dataset = load_from_disk(str(tmp_path / "saved"))
    for rows in (dataset.with_format(name), dataset.to_iterable_dataset(num_shards=2).with_format(name)):
        row = next(iter(rows))
        assert isinstance(row["audio"], AudioFile) and (row["audio"]["bytes"] is not None) == stored
        assert np.array_equal(row["audio"].read(0.5, 1.0), expected)
        assert row["audio"]["array"].shape == (2, 48_000)
        assert type(row["number"]).__module__ == name


def test_an_audio_file_is_sent_to_other_processes_and_stored_again(dataset: Dataset, stereo: Path) -> None:
    audio = pickle.loads(pickle.dumps(AudioFile("a.wav", stereo.read_bytes())))
    assert np.array_equal(audio.read(), dataset[0]["audio"].read()) and audio[0] == "a"
    assert SeekingAudio().encode_example(audio) == {"path": "a.wav", "bytes": stereo.read_bytes()}
    assert SeekingAudio().encode_example(AudioFile(None, b"x")) == {"path": None, "bytes": b"x"}


def test_it_is_an_audio_feature_at_24_khz_and_can_go_back(dataset: Dataset, stereo: Path) -> None:
    assert isinstance(dataset.features["audio"], Audio) and dataset.features["audio"].sampling_rate == 24_000
    plain = dataset.cast_column("audio", Audio(decode=False))
    assert type(plain[0]["audio"]) is dict and plain[0]["audio"]["path"] == str(stereo)
    with pytest.raises(ValueError, match="sampling_rate=16000, but SeekingAudio reads at 24000 Hz"):
        SeekingAudio(sampling_rate=16_000)


@pytest.mark.parametrize("value", [5, {"path": None}, None])
def test_what_is_no_audio_file_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="SeekingAudio holds audio files, got"):
        SeekingAudio().encode_example(value)
