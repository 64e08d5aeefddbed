"""Datasets with a column of audio become corpora, whether they hold files or their content."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Audio, Dataset

from hf_moshi_ttt.data.audio_datasets import audio_corpus, load_audio_dataset
from hf_moshi_ttt.data.encoding import encode_corpus


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "sounds" / f"{name}.wav" for name in "ab"]
    paths[0].parent.mkdir()
    for seed, path in enumerate(paths):
        soundfile.write(path, np.random.default_rng(seed).uniform(-0.3, 0.3, 8_000 + 800 * seed), 8_000)
    return paths


def rows_of(files: list[Path], embed: bool) -> Dataset:
    audio = [
        {"path": path.name if embed else str(path), "bytes": path.read_bytes() if embed else None} for path in files
    ]
    dataset = Dataset.from_dict({"audio": audio, "speaker_id": [3, 4], "text": ["x", "y"]})
    return dataset.cast_column("audio", Audio(sampling_rate=16_000))


@pytest.mark.parametrize("embed", [True, False])
def test_a_column_of_audio_becomes_a_corpus(files: list[Path], embed: bool) -> None:
    corpus = audio_corpus(rows_of(files, embed))
    assert (corpus["name"][:], corpus["speaker"][:]) == (["a.wav", "b.wav"], ["3", "4"])
    assert corpus["duration_sec"][:] == [1.0, 1.1] and corpus[0]["alignments"] is None
    assert corpus[1]["audio"].read().shape == (1, 26_400)


@pytest.mark.parametrize("format_name", ["numpy", "torch"])
def test_a_format_changes_nothing(files: list[Path], format_name: str) -> None:
    """In torch's a speaker would be called "tensor(3)"."""
    rows = rows_of(files, embed=True)
    assert list(audio_corpus(rows.with_format(format_name))) == list(audio_corpus(rows))


def test_codes_are_those_of_the_files(files: list[Path], tmp_path: Path, codec_path: str) -> None:
    made = [
        encode_corpus(audio_corpus(rows_of(files, embed)), codec_path, tmp_path / f"codes-{embed}")
        for embed in (True, False)
    ]
    assert [row["codes"].tolist() for row in made[0]] == [row["codes"].tolist() for row in made[1]]
    hashes = [list(codes["source_sha256"]) for codes in made]
    assert hashes[0] == hashes[1] and len(set(hashes[0])) == 2


def test_other_content_of_the_same_name_is_encoded_anew(files: list[Path], tmp_path: Path, codec_path: str) -> None:
    encode_corpus(audio_corpus(rows_of(files, True)), codec_path, tmp_path / "codes")
    soundfile.write(files[0], np.zeros(8_000), 8_000)
    with pytest.raises(ValueError, match="codes: holds other codes"):
        encode_corpus(audio_corpus(rows_of(files, True)), codec_path, tmp_path / "codes")


def test_names_are_made_where_several_rows_share_one() -> None:
    dataset = Dataset.from_dict({"audio": [{"path": None, "bytes": b"x"}, {"path": "a", "bytes": b"x"}] * 2})
    with pytest.raises(
        ValueError, match=r"4 of 4 files cannot be used(.|\n)*000000: audio in memory(.|\n)*000003-a: a"
    ):
        audio_corpus(dataset.cast_column("audio", Audio()))


def test_what_is_no_audio_is_refused_and_damaged_rows_are_bounded(files: list[Path]) -> None:
    dataset = rows_of(files, True)
    with pytest.raises(
        ValueError, match=r"dataset: 'text' is no column of audio; it has \['audio'\], .*--audio-column"
    ):
        audio_corpus(dataset, "text")
    files[1].write_bytes(b"no audio")
    with pytest.raises(ValueError, match=r"1 of 2 files cannot be used(.|\n)*b\.wav: audio in memory: not a readable"):
        audio_corpus(rows_of(files, True))
    left_out: dict[str, str] = {}
    assert audio_corpus(rows_of(files, True), max_bad_fraction=0.5, left_out=left_out)["name"][:] == ["a.wav"]
    assert list(left_out) == ["b.wav"] and "not a readable audio file" in left_out["b.wav"]


def test_a_folder_of_audio_and_one_of_parquet_are_loaded_by_name(files: list[Path], tmp_path: Path) -> None:
    (files[0].parent / "metadata.csv").write_text("file_name,text\na.wav,hi\nb.wav,you\n")
    assert load_audio_dataset(files[0].parent)["name"][:] == ["a.wav", "b.wav"]
    (tmp_path / "hub" / "data").mkdir(parents=True)
    rows_of(files, True).to_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    assert load_audio_dataset(tmp_path / "hub", "audio")["duration_sec"][:] == [1.0, 1.1]
