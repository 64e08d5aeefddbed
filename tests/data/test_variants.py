"""Forms change sound as their names say, frames correspond, and files carry their origin."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from hf_moshi_ttt.codec.pretrained_codec import codec_sha256, load_codec
from hf_moshi_ttt.commands.make_variants import FORMS
from hf_moshi_ttt.data.codes import encode_waveform
from hf_moshi_ttt.data.variants import ORIGINAL, Form, load_variants, make_variants

from ..conftest import chirps_S

FRAME = 1920


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / f"{name}.wav" for name in "ab"]
    for seed, path in enumerate(paths):
        soundfile.write(path, chirps_S(6.0, seed), 24_000, subtype="FLOAT")
    return paths


def samples_of(path: Path) -> NDArray[np.float32]:
    return soundfile.read(path, dtype="float32")[0]


def test_the_verb_offers_forms_that_exist() -> None:
    for name in FORMS:
        Form.parse(name)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("same", Form()),
        ("phase_0.25", Form(phase=0.25)),
        ("noise_10db", Form(snr_db=10)),
        ("rate_1.1+phase_.5", Form(phase=0.5, rate=1.1)),
    ],
)
def test_names_of_forms(text: str, form: Form) -> None:
    assert Form.parse(text) == form


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pitch_2", "'pitch_2' is not known; allowed are same, phase_X"),
        ("phase_1.5", "'phase_1.5' is not known"),
        ("phase_0.0", "phases are above 0"),
        ("rate_3", "rates 0.5 to 2.0"),
        ("rate_0.9+rate_0.9", "two changes of rate"),
    ],
)
def test_other_names_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Form.parse(text)


def test_a_phase_drops_a_part_of_a_frame_and_keeps_frame_numbers() -> None:
    samples_S = np.arange(5 * FRAME, dtype=np.float32)
    shifted_S = Form(phase=0.5).changed(samples_S, 0)
    assert np.array_equal(shifted_S, samples_S[960:])
    assert [Form(phase=0.5).frame_of(frame) for frame in (0, 1, 7)] == [0, 1, 7]


def test_a_lower_rate_is_longer_and_lower() -> None:
    times_sec = np.arange(24_000) / 24_000
    slower_S = Form(rate=0.8).changed(np.sin(2 * np.pi * 1000 * times_sec).astype(np.float32), 0)
    assert len(slower_S) == pytest.approx(30_000, abs=2)
    assert np.abs(np.fft.rfft(slower_S)).argmax() / len(slower_S) * 24_000 == pytest.approx(800, abs=1)
    assert Form(rate=0.8).frame_of(80) == 100


def test_noise_has_the_level_of_its_name_and_follows_the_seed() -> None:
    speech_S = chirps_S(2.0, 3).astype(np.float32)
    noisy_S, again_S, other_S = (Form(snr_db=10).changed(speech_S, seed) for seed in (1, 1, 2))
    assert np.array_equal(noisy_S, again_S) and not np.array_equal(noisy_S, other_S)
    assert 10 * np.log10(np.mean(speech_S**2) / np.mean((noisy_S - speech_S) ** 2)) == pytest.approx(10, abs=0.2)


def test_a_file_holds_every_recording_in_every_form(recordings: list[Path], codec_path: str, tmp_path: Path) -> None:
    output = tmp_path / "new" / "variants.safetensors"
    made = make_variants(recordings, codec_path, output, ["same", "phase_0.5"])
    codes, origin = load_variants(output)
    assert made == origin and origin.paths == [str(path) for path in recordings]
    assert origin.durations_sec == pytest.approx([6.0, 6.0])
    codec = load_codec(codec_path)
    assert origin.codec_sha256 == codec_sha256(codec) and origin.codebook_size == 32
    for number, path in enumerate(recordings):
        expected = torch.from_numpy(encode_waveform(codec, samples_of(path)[None])[0])
        shifted = torch.from_numpy(encode_waveform(codec, samples_of(path)[None, 960:])[0])
        assert torch.equal(codes[ORIGINAL][number], expected) and torch.equal(codes["same"][number], expected)
        assert torch.equal(codes["phase_0.5"][number], shifted) and not torch.equal(shifted, expected)


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_a_file_that_is_not_whole_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.safetensors: damaged or no file of variants \(.* Make it again"):
        load_variants(tmp_path / "a.safetensors")


def test_what_is_no_such_file_is_refused(recordings: list[Path], codec_path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file; hf-moshi-ttt make-variants writes one"):
        load_variants(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no variants"):
        load_variants(tmp_path / "other.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "older.safetensors", metadata={"origin": "{}"})
    with pytest.raises(ValueError, match="another version"):
        load_variants(tmp_path / "older.safetensors")
    with pytest.raises(ValueError, match="every form once"):
        make_variants(recordings, codec_path, tmp_path / "twice.safetensors", ["same", "same"])
    with pytest.raises(ValueError, match="0 recordings"):
        make_variants([], codec_path, tmp_path / "empty.safetensors", ["same"])
