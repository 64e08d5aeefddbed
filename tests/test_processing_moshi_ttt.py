"""The processor of a model: codes of waveforms and words, and sound and text of codes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoProcessor

from hf_moshi_ttt.codec.pretrained_codec import codec_sha256, load_codec
from hf_moshi_ttt.codec.text_stream import tokenizer_sha256, train_text_tokenizer
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.audio_feature import AudioFile
from hf_moshi_ttt.data.codes import encode_waveform
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.processing_moshi_ttt import MoshiTTTProcessor

from .fixtures.checkpoints import save_kyutai


@pytest.fixture(scope="module")
def folder(tiny_mimi: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with a codec and a tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "text.txt").write_text("hello world\n" * 50)
    train_text_tokenizer(folder / "text.txt", folder / "words.model", 269)
    config = MoshiTTTConfig.from_preset("tiny", codec=str(tiny_mimi), text_tokenizer=str(folder / "words.model"))
    MoshiTTTForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder: Path) -> MoshiTTTProcessor:
    return AutoProcessor.from_pretrained(folder)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_audio_becomes_codes_and_codes_become_audio(processor: MoshiTTTProcessor) -> None:
    assert type(processor) is MoshiTTTProcessor
    audio = noise(30_000)
    codes = processor(audio, sampling_rate=24_000)["codes"]
    assert (codes.shape, codes.dtype) == ((1, 17, 16), torch.int64)
    whole = np.pad(audio, (0, 16 * 1920 - 30_000))
    expected = processor.codec.encode(torch.from_numpy(whole)[None, None], num_quantizers=8).audio_codes
    assert len(expected.unique()) > 4  # a codec that hears something
    assert torch.equal(codes[:, 1:9], expected) and torch.equal(codes[:, 9:], expected)  # a mono recording, duplicated
    assert (codes[:, 0] == 0).all()
    both = processor(audio, user_audio=noise(30_000, seed=1))["codes"]
    assert torch.equal(both[:, 1:9], expected)
    (sound,) = processor.decode_audio(codes)
    assert sound.shape == (16 * 1920,)
    (heard,) = processor.decode_audio(both, user=True)
    assert np.array_equal(heard, processor.codec.decode(both[:, 9:]).audio_values[0, 0].detach().numpy())
    assert not np.array_equal(heard, sound)


def test_codes_are_those_of_a_corpus_to_the_last_unfinished_frame(processor: MoshiTTTProcessor) -> None:
    """Mimi gives other codes for an unfinished frame than for the same one filled with silence."""
    for samples in (1, 1000, 5 * 1920 + 1, 6 * 1920 - 1, 6 * 1920):
        audio = noise(samples)
        corpus = encode_waveform(processor.codec, audio[None])[0]
        assert np.array_equal(processor(audio)["codes"][0, 1:9], corpus)


class Decoder:
    """As `datasets.Audio` gives it."""

    def __init__(self, samples: np.ndarray) -> None:
        self.values = {"array": samples, "sampling_rate": 24_000}

    def get_all_samples(self) -> None:
        """What torchcodec's decoders have."""

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


def test_values_of_audio_columns_bring_their_rate(processor: MoshiTTTProcessor, tmp_path: Path) -> None:
    audio = noise(8000)
    expected = processor(audio, user_audio=audio)["codes"]
    soundfile.write(tmp_path / "a.wav", audio, 24_000, subtype="FLOAT")
    for value in (Decoder(audio).values, Decoder(audio), AudioFile(str(tmp_path / "a.wav"))):
        assert torch.equal(processor(value, sampling_rate=16_000, user_audio=value)["codes"], expected)


def test_integer_samples_are_scaled_by_their_type(processor: MoshiTTTProcessor) -> None:
    audio = (noise(8000).clip(-1, 1) * 2**15).astype(np.int16)
    expected = processor((audio / 2**15).astype(np.float32))["codes"]
    assert torch.equal(processor(audio)["codes"], expected)
    assert torch.equal(processor(torch.from_numpy(audio))["codes"], expected)
    assert torch.equal(processor(audio.astype(np.int32) * 2**16)["codes"], expected)


def test_words_become_a_text_row_and_back(processor: MoshiTTTProcessor) -> None:
    words = [{"word": "hello", "start_sec": 0.2, "end_sec": 0.4}, {"word": "world", "start_sec": 0.8, "end_sec": 1.0}]
    codes = processor(noise(48_000), words=words)["codes"]
    assert processor.decode_text(codes) == ["hello world"]
    assert codes[0, 0, 0] == 3 and codes[0, 0, 1] == 0  # PAD, and EPAD before the word in frame 2
    assert processor.decode_text(torch.full((2, 17, 3), -1)) == ["", ""]


def test_words_in_any_order_are_written_where_they_are_said(
    processor: MoshiTTTProcessor, caplog: pytest.LogCaptureFixture
) -> None:
    words = [{"word": "hello", "start_sec": 0.2, "end_sec": 0.4}, {"word": "world", "start_sec": 0.8, "end_sec": 1.0}]
    expected = processor(noise(48_000), words=words)["codes"]
    assert torch.equal(processor(noise(48_000), words=words[::-1])["codes"], expected) and not caplog.records
    late = {"word": "late", "start_sec": 2.0, "end_sec": 2.1}
    assert torch.equal(processor(noise(48_000), words=[late, *words])["codes"], expected)
    assert "words: 1 left out, e.g. 'late' starts at 2 s, after the 2 s of audio" in caplog.text


def test_silence_for_the_user(folder: Path) -> None:
    processor = MoshiTTTProcessor(MoshiTTTConfig.from_pretrained(folder, user_stream="silence"))
    user = processor(noise(10_000))["codes"][0, 9:]
    quiet = processor.codec.encode(torch.zeros(1, 1, 20 * 24_000), num_quantizers=8).audio_codes[0, :, -1:]
    assert torch.equal(user, quiet.expand(-1, 6))


def test_a_model_reads_what_the_processor_makes(folder: Path, processor: MoshiTTTProcessor) -> None:
    model = MoshiTTTForConditionalGeneration.from_pretrained(folder)
    result = model.generate(**processor(noise(20_000)), max_new_frames=3)
    assert processor.decode_audio(result.codes)[0].shape == (3 * 1920,)


def test_saved_and_read_again(folder: Path, processor: MoshiTTTProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "words.model"}
    again = AutoProcessor.from_pretrained(tmp_path)
    assert torch.equal(again(noise(5000))["codes"], processor(noise(5000))["codes"])
    with pytest.raises(ValueError, match="A processor has nothing of its own to upload: push the model"):
        processor.push_to_hub("user/x")


def test_processor_of_kyutais_repository(tmp_path: Path, lm_model: Any, folder: Path) -> None:
    save_kyutai(tmp_path, lm_model, tokenizer_name="words.model")
    (tmp_path / "words.model").write_bytes((folder / "words.model").read_bytes())
    processor = MoshiTTTProcessor.from_pretrained(tmp_path)
    assert processor.config.codec == "kyutai/mimi"
    assert processor.tokenizer.decode(processor.tokenizer.encode("hello")) == "hello"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(noise(100), sampling_rate=16_000), "sampling_rate=16000, but the codec takes 24000 Hz: resample"),
        (lambda p: p({"array": noise(100), "sampling_rate": 8000}), "sampling_rate=8000, but the codec takes 24000 Hz"),
        (
            lambda p: p({"path": "a", "bytes": b""}),
            r"audio is a dict of \['bytes', 'path'\], but must hold \"array\" and",
        ),
        (lambda p: p(noise(100)[None]), r"audio must be one channel of samples \[S\]; got shape \[1, 100\]"),
        (lambda p: p(noise(0)), r"got shape \[0\]"),
        (lambda p: p(noise(100) * 32_767), "the peak is .*, but samples lie in .*: they look like integers stored as"),
        (lambda p: p(np.zeros(100, np.uint8)), "samples are uint8, but must be floats"),
        (lambda p: p(noise(4000), user_audio=np.full(4000, np.nan)), "holds samples that are NaN or infinite"),
        (lambda p: p(noise(4000), user_audio=noise(100)), "audio has 3 frames, but user_audio 1"),
        (lambda p: p(noise(4000), words=[("a", 0.1)]), r"words\[0\]=\('a', 0.1\), but a word must be a dict"),
        (lambda p: p(noise(4000), words=[{"word": "a", "start_sec": -1}]), r"words\[0\]: 'a' from -1 s"),
        (
            lambda p: p(noise(4000), words=[{"word": "a", "start_sec": 480}]),
            r"words: 'a' starts at 480 s, but the audio is 0.24 s long \(1 of 1 words .* are these milliseconds",
        ),
        (lambda p: p.decode_audio(torch.full((1, 17, 3), -1)), "codes are absent or initial tokens: there is no sound"),
    ],
)
def test_what_cannot_be_processed_is_refused(processor: MoshiTTTProcessor, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(processor)


def test_a_codec_of_another_machine_is_named_with_its_remedy(tmp_path: Path, codec_path: str) -> None:
    processor = MoshiTTTProcessor(MoshiTTTConfig.from_preset("tiny", codec=str(tmp_path / "gone")))
    with pytest.raises(
        ValueError, match="gone: the codec .* is not on this machine. Copy it here, and set processor.c"
    ):
        _ = processor.codec
    processor.config.codec = codec_path
    assert processor.codec.config.codebook_size == 32


def test_models_without_a_tokenizer_or_with_another_codec(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained on audio alone: its configuration names no text_tokenizer"):
        _ = MoshiTTTProcessor(MoshiTTTConfig.from_preset("tiny")).tokenizer
    from hf_moshi_ttt.codec.configuration_log_mel_codec import LogMelCodecConfig
    from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecModel

    LogMelCodecModel(LogMelCodecConfig(frame_rate=25, pca_dim=8, codebook_size=4)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"\(samples/s, frames/s\) = \(24000, 25\), but Moshi needs \(24000, 12.5\)"):
        _ = MoshiTTTProcessor(MoshiTTTConfig.from_preset("tiny", codec=str(tmp_path))).codec


def test_another_codec_or_tokenizer_in_its_place_is_refused(
    tmp_path: Path, codec_path: str, mimi_path: str, tokenizer_path: str
) -> None:
    sha256 = codec_sha256(load_codec(codec_path))
    own: dict[str, Any] = {"codec_sha256": sha256, "text_tokenizer_sha256": tokenizer_sha256(tokenizer_path)}
    config = MoshiTTTConfig.from_preset("tiny", codec=codec_path, text_tokenizer=tokenizer_path, **own)
    processor = MoshiTTTProcessor(config)
    assert processor.codec.config.num_quantizers == 8 and processor.tokenizer.vocab_size() > 0
    (tmp_path / "other.model").write_bytes(Path(tokenizer_path).read_bytes() + b"\n")
    other = MoshiTTTConfig.from_preset("tiny", codec=mimi_path, text_tokenizer=str(tmp_path / "other.model"), **own)
    with pytest.raises(ValueError, match=r"not the codec that the model was trained on \(sha256 .*Put that one there"):
        MoshiTTTProcessor(other).codec  # noqa: B018
    with pytest.raises(ValueError, match="other.model: not the text_tokenizer that the model was trained on"):
        MoshiTTTProcessor(other).tokenizer  # noqa: B018
