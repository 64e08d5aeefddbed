"""Corpora become rows of codes with their provenance, by the log-mel codec and by a Mimi through the same call."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from datasets import Dataset
from transformers import MimiConfig, MimiModel

from hf_moshi_ttt.audio import FRAME_SAMPLES
from hf_moshi_ttt.data.codes import decode_codes, encode_corpus, encode_waveform, load_codec, load_codes, silence_codes
from hf_moshi_ttt.data.manifests import load_dailytalk, load_librilight
from hf_moshi_ttt.log_mel_codec import LogMelCodecConfig, LogMelCodecModel
from hf_moshi_ttt.log_mel_codec_fit import fit_log_mel_codec
from hf_moshi_ttt.text_stream import load_text_tokenizer, train_text_tokenizer

CODEBOOK_SIZE = 32


def chirps_S(duration_sec: float, seed: int) -> np.ndarray:
    """A tone of another pitch and loudness every 80 ms, with some noise."""
    rng = np.random.default_rng(seed)
    samples = int(duration_sec * 24_000)
    pitch_hz = np.repeat(rng.uniform(100, 3000, samples // 1920 + 1), 1920)[:samples]
    gain = np.repeat(rng.uniform(0.01, 0.3, samples // 1920 + 1), 1920)[:samples]
    phase = 2 * np.pi * np.cumsum(pitch_hz) / 24_000
    return (gain * np.sin(phase) + 0.005 * rng.standard_normal(samples)).astype(np.float32)


@pytest.fixture(scope="module")
def codec_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small fitted codec with Moshi's 8 codebooks."""
    config = LogMelCodecConfig(num_quantizers=8, codebook_size=CODEBOOK_SIZE, pca_dim=8, griffin_lim_iterations=2)
    path = tmp_path_factory.mktemp("codec")
    fit_log_mel_codec([chirps_S(6.0, 0)], config, show_progress=False).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "text.txt").write_text("a b c d\n" * 5)
    train_text_tokenizer(folder / "text.txt", folder / "letters.model", vocab_size=256 + 9)  # a word "a" is "▁", "a"
    return str(folder / "letters.model")


def write_corpus(folder: Path, recordings: dict[str, np.ndarray]) -> Path:
    """An index of wav files `[S, C]`."""
    lines = []
    for name, samples in recordings.items():
        soundfile.write(folder / f"{name}.wav", samples, 24_000, subtype="FLOAT")
        lines.append(json.dumps({"path": f"{name}.wav", "duration": len(samples) / 24_000}) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return folder / "index.jsonl"


def write_words(folder: Path, name: str, words: list[tuple[str, float, str]]) -> None:
    alignments = [[word, [start_sec, start_sec + 0.05], speaker] for word, start_sec, speaker in words]
    (folder / f"{name}.json").write_text(json.dumps({"alignments": alignments}))


def encoded(corpus: Dataset, codec: str, output: Path, tokenizer: str | None = None) -> list[np.ndarray]:
    encode_corpus(corpus, codec, output, tokenizer)
    return [np.stack(row["codes"]) for row in load_codes(output)[0]]


def test_mono_recordings_become_8_rows(tmp_path: Path, codec_path: str) -> None:
    first, second = chirps_S(1.3, 1), chirps_S(2.0, 2)
    corpus = load_librilight(write_corpus(tmp_path, {"first": first, "second": second}))
    codes = encoded(corpus, codec_path, tmp_path / "codes")
    assert [item.shape for item in codes] == [(8, 17), (8, 25)]
    expected = load_codec(codec_path).encode(torch.from_numpy(second)[None, None]).audio_codes[0]
    assert np.array_equal(codes[1], expected.numpy())
    assert len(np.unique(codes[1])) > 10
    rows = load_codes(tmp_path / "codes")[0]
    assert list(rows["path"]) == [str(tmp_path / "first.wav"), str(tmp_path / "second.wav")]
    assert list(rows["duration_sec"]) == [1.3, 2.0]
    assert str(rows.features["codes"]) == "List(List(Value('int16')))"


def test_stereo_audiobooks_are_mixed_to_mono(tmp_path: Path, codec_path: str) -> None:
    left = chirps_S(1.0, 1)
    recordings = {
        "opposite": np.stack([left, -left], axis=1),
        "mono": left,
        "double": np.stack([2 * left, 0 * left], 1),
    }
    opposite, mono, double = encoded(
        load_librilight(write_corpus(tmp_path, recordings)), codec_path, tmp_path / "codes"
    )
    assert np.array_equal(double, mono)
    silence = load_codes(tmp_path / "codes")[1].silence_codes
    assert opposite.tolist() == [[code] * 13 for code in silence]


def test_conversations_become_text_own_and_user_rows(tmp_path: Path, codec_path: str, tokenizer_path: str) -> None:
    left, right = chirps_S(1.0, 1), chirps_S(1.0, 2)
    index = write_corpus(tmp_path, {"talk": np.stack([left, right], axis=1), "left": left, "right": right})
    words = [("a", 0.25, "SPEAKER_MAIN"), ("b", 0.5, "OTHER"), ("cd", 0.93, "SPEAKER_MAIN")]
    write_words(tmp_path, "talk", words)
    mono = encoded(load_librilight(index), codec_path, tmp_path / "mono")[1:]
    index.write_text(index.read_text().splitlines()[0])
    (talk,) = encoded(load_dailytalk(index), codec_path, tmp_path / "talk", tokenizer_path)
    assert talk.shape == (17, 13)
    assert np.array_equal(talk[1:9], mono[0])
    assert np.array_equal(talk[9:], mono[1])
    pieces = load_text_tokenizer(tokenizer_path).id_to_piece
    row = " ".join({0: "E", 3: "-"}.get(int(i)) or pieces(int(i)) for i in talk[0])
    assert row == "- - E ▁ a - - - - - E ▁ c"
    assert load_codes(tmp_path / "talk")[1].tokens_beyond_end == 1


def test_the_provenance_says_where_codes_come_from(tmp_path: Path, codec_path: str, tokenizer_path: str) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, 2))})
    write_words(tmp_path, "talk", [("a", 0.1, "SPEAKER_MAIN")])
    encode_corpus(load_dailytalk(index), codec_path, tmp_path / "codes", tokenizer_path)
    provenance = load_codes(tmp_path / "codes")[1]
    assert (provenance.codec, provenance.codec_type) == (codec_path, "log_mel_codec")
    assert (provenance.codebook_size, provenance.text_tokenizer) == (CODEBOOK_SIZE, tokenizer_path)
    assert (provenance.tokens_beyond_end, provenance.left_out) == (0, {})
    silent_row = np.stack(load_codes(tmp_path / "codes")[0][0]["codes"])[9:]
    assert provenance.silence_codes == silent_row[:, -1].tolist()


def test_one_bad_recording_in_a_hundred_is_left_out_and_named(tmp_path: Path, codec_path: str) -> None:
    index = write_corpus(tmp_path, {f"{number:03}": chirps_S(0.1, number) for number in range(100)})
    (tmp_path / "042.wav").write_bytes(b"no audio")
    codes = encoded(load_librilight(index), codec_path, tmp_path / "codes")
    assert [item.shape for item in codes] == [(8, 2)] * 99
    ((path, reason),) = load_codes(tmp_path / "codes")[1].left_out.items()
    assert path == str(tmp_path / "042.wav")
    assert "damaged or not an audio file" in reason


def test_too_many_bad_recordings_leave_nothing_behind(tmp_path: Path, codec_path: str) -> None:
    index = write_corpus(tmp_path, {"bad": np.full(24_000, np.nan), "good": chirps_S(1.0, 0)})
    with pytest.raises(ValueError, match=r"1 of 2 files cannot be used(.|\n)*bad\.wav: holds samples that are NaN"):
        encode_corpus(load_librilight(index), codec_path, tmp_path / "codes")
    assert not (tmp_path / "codes").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_conversation_needs_two_channels(tmp_path: Path, codec_path: str, tokenizer_path: str, channels: int) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, channels)), "stereo": np.zeros((24_000, 2))})
    for name in ("talk", "stereo"):
        write_words(tmp_path, name, [])
    with pytest.raises(
        ValueError, match=rf"1 of 2 files cannot be used(.|\n)*talk\.wav: {channels} channels, but a conversation has 2"
    ):
        encode_corpus(load_dailytalk(index), codec_path, tmp_path / "codes", tokenizer_path)


def test_a_conversation_needs_a_tokenizer(tmp_path: Path, codec_path: str) -> None:
    index = write_corpus(tmp_path, {"talk": np.zeros((24_000, 2))})
    write_words(tmp_path, "talk", [])
    with pytest.raises(ValueError, match="A corpus with alignments needs text_tokenizer, the path of a SentencePiece"):
        encode_corpus(load_dailytalk(index), codec_path, tmp_path / "codes")


def test_a_folder_without_codes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no encoded corpus\. Make one with scripts/prepare_data\.py"):
        load_codes(tmp_path)


def test_a_codec_of_other_rates_is_refused(tmp_path: Path) -> None:
    LogMelCodecModel(LogMelCodecConfig(frame_rate=25.0, codebook_size=4)).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"\(samples/s, frames/s\) = \(24000, 25\.0\), but Moshi needs \(24000, 12\.5\)"
    ):
        load_codec(str(tmp_path))


@pytest.fixture(scope="module")
def mimi_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Mimi of Moshi's rates, tiny otherwise; a fresh one has codebooks of zeros, which would give one code."""
    torch.manual_seed(0)
    config = MimiConfig(
        hidden_size=16, num_filters=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8, upsample_groups=16,
        num_quantizers=8, codebook_size=CODEBOOK_SIZE,
    )  # fmt: skip
    model = MimiModel(config)
    for name, table in model.named_buffers():
        if name.endswith("embed_sum"):
            table.normal_()
    path = tmp_path_factory.mktemp("mimi")
    model.save_pretrained(path)
    return str(path)


def test_a_mimi_is_called_alike(tmp_path: Path, mimi_path: str) -> None:
    index = write_corpus(tmp_path, {"a": chirps_S(1.3, 1), "b": chirps_S(1.0, 2)})
    codes = encoded(load_librilight(index), mimi_path, tmp_path / "codes")
    assert [item.shape for item in codes] == [(8, 17), (8, 13)]
    assert all(item.min() >= 0 and item.max() < CODEBOOK_SIZE for item in codes)
    assert len(np.unique(codes[0])) > 10
    provenance = load_codes(tmp_path / "codes")[1]
    assert (provenance.codec_type, provenance.codebook_size) == ("mimi", CODEBOOK_SIZE)
    assert len(provenance.silence_codes) == 8


@pytest.mark.parametrize("codec_fixture", ["codec_path", "mimi_path"])
def test_waveforms_to_codes_and_back(codec_fixture: str, request: pytest.FixtureRequest) -> None:
    codec = load_codec(request.getfixturevalue(codec_fixture))
    samples_CS = np.stack([chirps_S(0.5, 1), chirps_S(0.5, 2)])
    codes_CQT = encode_waveform(codec, samples_CS)
    assert (codes_CQT.shape, codes_CQT.dtype) == ((2, 8, 7), np.int16)
    assert np.array_equal(encode_waveform(codec, samples_CS[1:])[0], codes_CQT[1])
    samples_S = decode_codes(codec, codes_CQT[0])
    assert samples_S.shape == (7 * FRAME_SAMPLES,)
    assert np.isfinite(samples_S).all()


def test_the_codes_of_silence_are_those_far_from_its_start(mimi_path: str) -> None:
    codec = load_codec(mimi_path)
    codes_QT = encode_waveform(codec, np.zeros((1, 48_000), dtype=np.float32))[0]
    assert silence_codes(codec) == codes_QT[:, 24].tolist() != codes_QT[:, 0].tolist()
