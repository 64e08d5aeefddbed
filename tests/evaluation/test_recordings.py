"""Recordings are books with their chapters in order, by every established key, from codes and from audio."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from datasets import Dataset

from hf_moshi_ttt.codec.pretrained_codec import load_codec
from hf_moshi_ttt.data.codes import FEATURES, Provenance, encode_waveform, load_codes
from hf_moshi_ttt.evaluation.long_context_settings import RecordingSettings
from hf_moshi_ttt.evaluation.recordings import load_recordings, plan_recordings

from ..conftest import chirps_S

FILES = [
    {"path": f"{speaker}/{book}/{book}_{chapter}.flac", "speaker": speaker, "book": book}
    for speaker, book, chapters in (("7", "emma", 3), ("7", "oz", 12), ("9", "emma", 1))
    for chapter in range(1, chapters + 1)
]


def settings(**changes: Any) -> RecordingSettings:
    return RecordingSettings(librilight_codes="codes", **changes)


def plans(files: Any = None, **changes: Any) -> dict[str, list[str]]:
    found = plan_recordings(FILES if files is None else files, settings(**changes))
    return {plan.name: [path.rpartition("_")[2] for path in plan.paths] for plan in found}


def test_chapters_are_joined_in_order_of_their_numbers() -> None:
    assert plans(FILES[::-1]) == {
        "7/emma": ["1.flac", "2.flac", "3.flac"],
        "7/oz": [f"{n}.flac" for n in range(1, 13)],
        "9/emma": ["1.flac"],
    }
    assert plans(librilight_max_chapters=2)["7/oz"] == ["1.flac", "2.flac"]


def test_a_single_book_by_name_and_speaker() -> None:
    single = {"librilight_evaluation_mode": "single_book"}
    assert list(plans(**single, librilight_book_name="oz")) == ["7/oz"]
    assert list(plans(**single, librilight_book_name="emma", librilight_speaker_id="9")) == ["9/emma"]
    with pytest.raises(ValueError, match="librilight_book_name='emma': 2 books of this name; librilight_speaker_id"):
        plans(**single, librilight_book_name="emma")
    with pytest.raises(ValueError, match="librilight_book_name='ulysses': 0 books"):
        plans(**single, librilight_book_name="ulysses")
    with pytest.raises(ValueError, match="librilight_speaker_id='8': no file of this speaker"):
        plans(librilight_speaker_id="8")


def test_a_given_list_keeps_its_order() -> None:
    names = ["9/emma", "7/oz/oz_10.flac", "7/emma"]
    found = plans(librilight_evaluation_mode="list", librilight_recordings=names)
    assert list(found) == names and found["7/oz/oz_10.flac"] == ["10.flac"]
    with pytest.raises(ValueError, match=r"librilight_recordings names \['7/emil'\], but there are \['7/emma'"):
        plans(librilight_evaluation_mode="list", librilight_recordings=["7/emil"])


def test_chapters_by_themselves() -> None:
    found = plans(librilight_evaluation_mode="chapters")
    assert len(found) == 16 and all(len(paths) == 1 for paths in found.values())


def test_files_without_a_book_are_recordings_of_their_own() -> None:
    assert list(plans([{"path": "b.wav"}, {"path": "a.wav", "speaker": None, "book": None}])) == ["a.wav", "b.wav"]


def test_a_subset_is_drawn_by_seed() -> None:
    drawn = [list(plans(librilight_evaluation_mode="chapters", librilight_num_sequences=5, seed=n)) for n in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    with pytest.raises(ValueError, match="librilight_num_sequences=4, but there are 3 recordings"):
        plans(librilight_num_sequences=4)


def save(folder: Path, files: list[dict[str, Any]], frames: int = 10, **row: Any) -> Path:
    """Codes of `files`, chapter n filled with n."""
    rows = []
    for place, file in enumerate(files):
        codes = np.full((8, frames + place), place)
        rows.append({**dict.fromkeys(FEATURES), "codes": codes, "start_sec": 0.0, "duration_sec": 1.0, **file, **row})
    Dataset.from_list(rows, features=FEATURES).save_to_disk(str(folder))
    provenance = Provenance("a codec", "mimi", 32, [1] * 8, None, 0, {})
    provenance.save(folder)
    return folder


def test_codes_of_chapters_are_joined_and_cut(tmp_path: Path) -> None:
    codes = save(tmp_path / "codes", FILES[:4])
    recordings, provenance = load_recordings(RecordingSettings(librilight_codes=str(codes)))
    assert [recording.name for recording in recordings] == ["7/emma", "7/oz"] and provenance.silence_codes == [1] * 8
    emma = recordings[0]
    assert emma.codes.shape == (8, 10 + 11 + 12)
    assert emma.codes[0].tolist() == [0] * 10 + [1] * 11 + [2] * 12
    chapters = [{"path": f"7/emma/emma_{n}.flac", "first_frame": first} for n, first in ((1, 0), (2, 10), (3, 21))]
    assert emma.description() == {"name": "7/emma", "frames": 33, "chapters": chapters}
    cut, _ = load_recordings(RecordingSettings(librilight_codes=str(codes), max_sequence_length=15))
    assert [recording.frames for recording in cut] == [15, 13]
    assert cut[0].codes[0].tolist() == [0] * 10 + [1] * 5 and len(cut[0].chapters) == 2
    exact, _ = load_recordings(RecordingSettings(librilight_codes=str(codes), max_sequence_length=21))
    assert len(exact[0].chapters) == 2


def test_windows_of_files_are_refused(tmp_path: Path) -> None:
    codes = save(tmp_path / "codes", [FILES[0], FILES[0]])
    with pytest.raises(ValueError, match="Several rows of codes are windows of one file: encode whole files"):
        load_recordings(RecordingSettings(librilight_codes=str(codes)))


def test_audio_is_encoded_as_far_as_it_is_used(tmp_path: Path, codec_path: str) -> None:
    books, written = tmp_path / "books", {}
    for place, name in enumerate(("7/emma/emma_2.flac", "7/emma/emma_10.flac", "9/oz/oz_1.flac")):
        (books / name).parent.mkdir(parents=True, exist_ok=True)
        written[name] = chirps_S(2.0, place)
        soundfile.write(books / name, written[name], 24_000)
    which = RecordingSettings(librilight_audio_dir=str(books), librilight_speaker_id="7")
    (recording,), provenance = load_recordings(which, codec_path, tmp_path / "cache")
    assert recording.chapters == (("7/emma/emma_2.flac", 0), ("7/emma/emma_10.flac", 25))
    (encoded,) = (tmp_path / "cache").iterdir()
    assert sorted(load_codes(encoded)[0]["path"]) == ["7/emma/emma_10.flac", "7/emma/emma_2.flac"]
    codec = load_codec(codec_path)
    samples, _ = soundfile.read(books / "7/emma/emma_10.flac", dtype="float32")
    np.testing.assert_array_equal(recording.codes[:, 25:], encode_waveform(codec, samples[None])[0])
    assert provenance.codec == codec_path and len(provenance.silence_codes) == 8
    (again,), _ = load_recordings(which, codec_path, tmp_path / "cache")
    np.testing.assert_array_equal(again.codes, recording.codes)
    everything, _ = load_recordings(RecordingSettings(librilight_audio_dir=str(books)), codec_path, tmp_path / "cache")
    assert [one.name for one in everything] == ["7/emma", "9/oz"]
    with pytest.raises(ValueError, match="needs a codec and a folder for the codes"):
        load_recordings(which)


def test_settings_are_recorded_whole() -> None:
    assert asdict(settings(seed=3))["seed"] == 3
