"""The codec itself: streaming, causality, shapes, round trips, refusals, and the interface it shares with Mimi.

All tests run on one small codec fitted on a minute of synthetic "speech" (gliding harmonics, noise bursts, pauses).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModel, MimiConfig, MimiModel, PreTrainedModel

from hf_moshi_ttt.codec import log_mel_codec
from hf_moshi_ttt.codec.configuration_log_mel_codec import LogMelCodecConfig
from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecModel
from hf_moshi_ttt.codec.log_mel_codec_fit import fit_log_mel_codec

FRAME = 1920
SMALL = {"codebook_size": 64, "num_quantizers": 4, "pca_dim": 32, "griffin_lim_iterations": 8}


def synthetic_speech_S(duration_sec: float, seed: int) -> Tensor:
    """Every 0.2 s a voiced glide, a noise burst or a pause, at 24 kHz."""
    rng = np.random.default_rng(seed)
    time_sec = np.arange(4800) / 24_000
    parts = []
    for _ in range(int(duration_sec / 0.2)):
        start_hz, end_hz, gain = rng.uniform(90, 300), rng.uniform(90, 300), rng.uniform(0.02, 0.2)
        phase = 2 * np.pi * np.cumsum(np.linspace(start_hz, end_hz, 4800)) / 24_000
        tilt = rng.uniform(0.3, 1.2)
        voiced = sum(np.sin(h * phase) / h**tilt for h in range(1, 20))
        noise = rng.standard_normal(4800) * np.hanning(4800)
        parts.append(gain * [voiced, noise, 0.001 * np.sin(time_sec)][rng.choice(3, p=[0.6, 0.25, 0.15])])
    return torch.from_numpy(np.concatenate(parts)).float()


@pytest.fixture(scope="module")
def codec() -> LogMelCodecModel:
    waveforms = [synthetic_speech_S(30.0, seed).numpy() for seed in (1, 2)]
    return fit_log_mel_codec(waveforms, LogMelCodecConfig(**SMALL), show_progress=False)


@pytest.fixture(scope="module")
def audio_B1S() -> Tensor:
    return torch.stack([synthetic_speech_S(4.0, 11), synthetic_speech_S(4.0, 12)])[:, None]


@pytest.fixture
def tiny_mimi() -> MimiModel:
    torch.manual_seed(0)
    return MimiModel(
        MimiConfig(
            hidden_size=16, num_filters=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=16, codebook_dim=8, vector_quantization_hidden_dimension=8, upsample_groups=16,
            num_quantizers=4, codebook_size=64,
        )
    ).eval()  # fmt: skip


def codes_of_stream(codec: PreTrainedModel, audio_B1S: Tensor, frames_per_piece: int) -> Tensor:
    """Codes of a stream, by names that Mimi and the log-mel codec share."""
    cache, past, codes = None, None, []
    for piece_B1S in audio_B1S.split(frames_per_piece * codec.config.frame_size, dim=-1):
        output = codec.encode(piece_B1S, padding_cache=cache, encoder_cache=past, use_streaming=True)
        cache, past = output.padding_cache, output.encoder_cache
        codes.append(output.audio_codes)
    return torch.cat(codes, dim=-1)


@pytest.mark.parametrize("frames_per_piece", [1, 3, 7])
def test_streamed_codes_equal_whole_codes(codec: LogMelCodecModel, audio_B1S: Tensor, frames_per_piece: int) -> None:
    whole_BKT = codec.encode(audio_B1S).audio_codes
    assert torch.equal(codes_of_stream(codec, audio_B1S, frames_per_piece), whole_BKT)
    assert whole_BKT.unique().numel() > 30


def test_codes_do_not_depend_on_the_encode_chunk(
    codec: LogMelCodecModel, audio_B1S: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_BKT = codec.encode(audio_B1S).audio_codes
    monkeypatch.setattr(log_mel_codec, "ENCODE_CHUNK_FRAMES", 6)
    assert torch.equal(codec.encode(audio_B1S).audio_codes, whole_BKT)


@pytest.mark.parametrize("frame", [0, 1, 20])
def test_later_samples_leave_codes_alone(codec: LogMelCodecModel, audio_B1S: Tensor, frame: int) -> None:
    changed_B1S = audio_B1S.clone()
    changed_B1S[..., (frame + 1) * FRAME :] = synthetic_speech_S(4.0, 99)[(frame + 1) * FRAME :]
    before_BKT, after_BKT = codec.encode(audio_B1S).audio_codes, codec.encode(changed_B1S).audio_codes
    assert torch.equal(before_BKT[..., : frame + 1], after_BKT[..., : frame + 1])
    assert not torch.equal(before_BKT[..., frame + 1], after_BKT[..., frame + 1])


def test_windows_reach_the_frame_end_and_the_context_before(codec: LogMelCodecModel) -> None:
    quiet_B1S = torch.zeros(1, 1, 3 * FRAME)
    base_BTG = codec.log_mels(quiet_B1S)
    for sample, touched in ((2 * FRAME - 40, {1, 2}), (2 * FRAME - 700, {1, 2}), (2 * FRAME - 1000, {1})):
        click_B1S = quiet_B1S.clone()
        click_B1S[..., sample] = 1.0
        changed_T = (codec.log_mels(click_B1S) != base_BTG).any(dim=-1)[0]
        assert set(changed_T.nonzero()[:, 0].tolist()) == touched


def test_frame_counts(codec: LogMelCodecModel) -> None:
    for num_samples in [1, FRAME - 1, FRAME, FRAME + 1, *np.random.default_rng(0).integers(2, 40_000, 8).tolist()]:
        codes_BKT = codec.encode(torch.zeros(1, 1, num_samples)).audio_codes
        assert codes_BKT.shape == (1, 4, -(-num_samples // FRAME))
        assert codes_BKT.dtype == torch.int64
        assert int(codec.get_encoded_length(torch.tensor(num_samples))) == codes_BKT.shape[-1]


def test_batch_equals_single_rows(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    codes_BKT = codec.encode(audio_B1S).audio_codes
    values_B1S = codec.decode(codes_BKT[..., :10]).audio_values
    for row in range(2):
        assert torch.equal(codec.encode(audio_B1S[row : row + 1]).audio_codes[0], codes_BKT[row])
        assert torch.equal(codec.decode(codes_BKT[row : row + 1, :, :10]).audio_values[0], values_B1S[row])


@pytest.mark.parametrize("mask_axes", [2, 3])
def test_masked_samples_read_as_zero(codec: LogMelCodecModel, audio_B1S: Tensor, mask_axes: int) -> None:
    length = 5 * FRAME + 100
    mask_BS = torch.ones(2, audio_B1S.shape[-1], dtype=torch.int64)
    mask_BS[1, length:] = 0
    mask = mask_BS if mask_axes == 2 else mask_BS[:, None]
    codes_BKT = codec.encode(audio_B1S, padding_mask=mask).audio_codes
    assert torch.equal(codes_BKT[1, :, :6], codec.encode(audio_B1S[1:, :, :length]).audio_codes[0])
    assert torch.equal(codes_BKT[0], codec.encode(audio_B1S).audio_codes[0])


def test_fewer_quantizers_are_the_coarse_ones(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    whole_BKT = codec.encode(audio_B1S).audio_codes
    assert torch.equal(codec.encode(audio_B1S, num_quantizers=2).audio_codes, whole_BKT[:, :2])


def test_each_codebook_brings_the_log_mels_closer(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    log_mels_BTG, codes_BKT = codec.log_mels(audio_B1S), codec.encode(audio_B1S).audio_codes
    errors = [float((log_mels_BTG - codec.feature_mean).square().mean())]
    errors += [float((log_mels_BTG - codec.log_mels_of_codes(codes_BKT[:, :k])).square().mean()) for k in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15 * errors[0]


def test_decoded_audio_sounds_nearer_than_mean_audio(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    log_mels_BTG = codec.log_mels(audio_B1S)
    heard_BTG = codec.log_mels(codec.decode(codec.encode(audio_B1S).audio_codes).audio_values)
    baseline = (log_mels_BTG - log_mels_BTG.mean(dim=(0, 1))).square().mean()
    assert (heard_BTG - log_mels_BTG).square().mean() < 0.5 * baseline


def test_decoded_audio_is_not_shifted(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    codes_BKT = codec.encode(audio_B1S).audio_codes
    meant_BNM = codec.log_mels_of_codes(codes_BKT).reshape(2, -1, 80)
    heard_BNM = codec.log_mels(codec.decode(codes_BKT).audio_values).reshape(2, -1, 80)
    errors = {shift: float((heard_BNM.roll(shift, dims=1) - meant_BNM).square().mean()) for shift in (-1, 0, 1)}
    assert errors[0] < 0.8 * min(errors[-1], errors[1])


def test_decode_shapes_and_repeatability(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    codes_BKT = codec.encode(audio_B1S[..., : 10 * FRAME]).audio_codes
    values_B1S = codec.decode(codes_BKT).audio_values
    assert values_B1S.shape == (2, 1, 10 * FRAME)
    assert values_B1S.dtype == torch.float32
    assert torch.equal(codec.decode(codes_BKT.short()).audio_values, values_B1S)
    assert codec.decode(codes_BKT[:, :1, :1]).audio_values.shape == (2, 1, FRAME)
    cut_B1S = codec.decode(codes_BKT, padding_mask=torch.ones(2, 1, 5000)).audio_values
    assert torch.equal(cut_B1S, values_B1S[..., :5000])


def test_decode_in_chunks_has_no_seam(
    codec: LogMelCodecModel, audio_B1S: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes_BKT = codec.encode(audio_B1S[:1]).audio_codes
    whole_BTG = codec.log_mels(codec.decode(codes_BKT).audio_values)
    monkeypatch.setattr(log_mel_codec, "DECODE_CHUNK_FRAMES", 8)
    pieces_BTG = codec.log_mels(codec.decode(codes_BKT).audio_values)
    target_BTG = codec.log_mels_of_codes(codes_BKT)
    assert pieces_BTG.shape == whole_BTG.shape
    assert (pieces_BTG - target_BTG).square().mean() < 1.3 * (whole_BTG - target_BTG).square().mean()


def test_silence_and_clipping(codec: LogMelCodecModel, audio_B1S: Tensor) -> None:
    silent_BKT = codec.encode(torch.zeros(1, 1, 10 * FRAME)).audio_codes
    assert torch.equal(silent_BKT, silent_BKT[..., :1].expand_as(silent_BKT))
    clipped_B1S = (50 * audio_B1S).clamp(-1, 1)
    values_B1S = codec.decode(codec.encode(clipped_B1S).audio_codes).audio_values
    silent_B1S = codec.decode(silent_BKT).audio_values
    assert values_B1S.isfinite().all()
    assert silent_B1S.abs().max() < 0.1 * values_B1S.abs().max()


def test_save_and_load(codec: LogMelCodecModel, audio_B1S: Tensor, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert isinstance(loaded, LogMelCodecModel)
    assert AutoConfig.from_pretrained(tmp_path).num_quantizers == 4
    codes_BKT = codec.encode(audio_B1S).audio_codes
    assert torch.equal(loaded.encode(audio_B1S).audio_codes, codes_BKT)
    assert torch.equal(loaded.decode(codes_BKT[..., :5]).audio_values, codec.decode(codes_BKT[..., :5]).audio_values)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == {"feature_mean", "feature_scale", "pca_basis", "codebooks"}


def test_other_precision_is_refused(codec: LogMelCodecModel, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="codec in torch.bfloat16; allowed: torch.float32; load it with that dtype"):
        loaded.encode(torch.zeros(1, 1, FRAME))


def test_there_is_nothing_to_train(codec: LogMelCodecModel) -> None:
    assert list(codec.parameters()) == []
    assert (codec.device.type, codec.dtype) == ("cpu", torch.float32)


def test_same_calls_as_mimi(codec: LogMelCodecModel, tiny_mimi: MimiModel, audio_B1S: Tensor) -> None:
    for model in (codec, tiny_mimi):
        assert (model.config.frame_size, model.config.frame_rate, model.config.sampling_rate) == (FRAME, 12.5, 24_000)
        with torch.no_grad():
            output = model.encode(audio_B1S, num_quantizers=3)
            streamed_BKT = codes_of_stream(model, audio_B1S, frames_per_piece=5)
            values_B1S = model.decode(output.audio_codes).audio_values
            (as_tuple_BKT,) = model.encode(audio_B1S, num_quantizers=3, return_dict=False)[:1]
        assert type(output).__name__ == "MimiEncoderOutput"
        assert output.audio_codes.shape == (2, 3, 50)
        assert torch.equal(as_tuple_BKT, output.audio_codes)
        assert streamed_BKT.shape == (2, 4, 50)
        assert values_B1S.shape == (2, 1, 50 * FRAME)
        assert int(model.get_encoded_length(torch.tensor(FRAME + 1))) == 2


def test_unfitted_model_has_varied_codes(audio_B1S: Tensor) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(LogMelCodecConfig(**SMALL))
    assert model.encode(audio_B1S).audio_codes.unique().numel() > 20


def test_config_streaming_returns_a_cache(codec: LogMelCodecModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codec.encode(torch.zeros(1, 1, FRAME)).padding_cache is None
    monkeypatch.setattr(codec.config, "use_streaming", True)
    assert codec.encode(torch.zeros(1, 1, FRAME)).padding_cache is not None


def broken_B1S(value: float) -> Tensor:
    samples_B1S = torch.zeros(1, 1, FRAME)
    samples_B1S[0, 0, 7] = value
    return samples_B1S


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (torch.zeros(1, FRAME), {}, "input_values has shape [1, 1920]; allowed: [B, 1, S]"),
        (torch.zeros(1, 2, FRAME), {}, "input_values has shape [1, 2, 1920]"),
        (torch.zeros(1, 1, 0), {}, "input_values has shape [1, 1, 0]"),
        (torch.zeros(1, 1, FRAME, dtype=torch.int16), {}, "input_values is torch.int16; allowed: floating point"),
        (broken_B1S(float("nan")), {}, "input_values has 1 NaN or infinite samples; allowed: finite numbers"),
        (broken_B1S(float("inf")), {}, "input_values has 1 NaN or infinite samples"),
        (torch.zeros(1, 1, FRAME), {"num_quantizers": 5}, "num_quantizers=5; allowed: 1 to 4; fit a codec with more"),
        (torch.zeros(1, 1, FRAME), {"num_quantizers": 0}, "num_quantizers=0; allowed: 1 to 4"),
        (torch.zeros(1, 1, FRAME), {"padding_mask": torch.ones(1, 5)}, "padding_mask has shape [1, 5]; allowed: [1, "),
        (torch.zeros(1, 1, 1000), {"use_streaming": True}, "a streamed piece has 1000 samples; allowed: multiples"),
        (torch.zeros(1, 1, FRAME), {"encoder_cache": ()}, "encoder_cache given; allowed: None"),
    ],
)  # fmt: skip
def test_encode_refuses(codec: LogMelCodecModel, samples: Tensor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        codec.encode(samples, **options)


def test_foreign_caches_are_refused(codec: LogMelCodecModel, tiny_mimi: MimiModel) -> None:
    silence_B1S = torch.zeros(2, 1, FRAME)
    own = codec.encode(silence_B1S, use_streaming=True).padding_cache
    other = tiny_mimi.encode(silence_B1S, use_streaming=True).padding_cache
    with pytest.raises(ValueError, match="padding_cache holds 2 rows, input_values 1; allowed: the same number"):
        codec.encode(silence_B1S[:1], padding_cache=own)
    with pytest.raises(ValueError, match="padding_cache of another model; allowed: this codec's own or None"):
        codec.encode(silence_B1S, padding_cache=other)
    with pytest.raises(ValueError, match="use_streaming=False with a padding_cache; allowed: True or None"):
        codec.encode(silence_B1S, padding_cache=own, use_streaming=False)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(4, 3, dtype=torch.int64), "audio_codes has shape [4, 3]; allowed: [B, K, T] with K of 1 to 4"),
        (torch.zeros(1, 5, 3, dtype=torch.int64), "audio_codes has shape [1, 5, 3]"),
        (torch.zeros(1, 4, 3), "audio_codes is torch.float32; allowed: integers"),
        (torch.full((1, 4, 3), 64), "audio_codes spans 64 to 64; allowed: 0 to 63; remove padding and special ids"),
        (torch.full((1, 4, 3), -1), "audio_codes spans -1 to -1"),
    ],
)
def test_decode_refuses(codec: LogMelCodecModel, codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        codec.decode(codes)


def test_decode_refuses_past(codec: LogMelCodecModel) -> None:
    with pytest.raises(ValueError, match="decoder_cache given; allowed: None; decode keeps no state"):
        codec.decode(torch.zeros(1, 4, 1, dtype=torch.int64), decoder_cache=())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"codebok_size": 64},
            "LogMelCodecConfig does not know ['codebok_size']. Known keys: codebook_size, frame_rate,",
        ),
        ({"sampling_rate": 0}, "sampling_rate=0; allowed: 1 to 1000000; give it in Hz"),
        ({"frame_rate": 13}, "frame_rate=13; allowed: above 0, dividing sampling_rate=24000; 12.5 divides"),
        ({"frame_rate": 0.0}, "frame_rate=0.0; allowed: above 0"),
        ({"subframes_per_frame": 7}, "subframes_per_frame=7; allowed: divisors of the frame's 1920 samples"),
        ({"subframes_per_frame": 0}, "subframes_per_frame=0; allowed: divisors"),
        ({"window_samples": 400}, "window_samples=400; allowed: even, 480 (two sub-frames) to 65536"),
        ({"window_samples": 1023}, "window_samples=1023; allowed: even"),
        ({"num_mels": 513}, "num_mels=513; allowed: 1 to 512; lower it or raise window_samples"),
        ({"pca_dim": 641}, "pca_dim=641; allowed: 1 to 640; at most subframes_per_frame * num_mels"),
        ({"num_quantizers": 0}, "num_quantizers=0; allowed: 1 to 64"),
        ({"codebook_size": 1}, "codebook_size=1; allowed: 2 to 65536"),
        ({"griffin_lim_iterations": -1}, "griffin_lim_iterations=-1; allowed: 0 to 1000"),
        ({"mel_floor": 0.0}, "mel_floor=0.0; allowed: above 0, below 256; 0.001 suits 16-bit audio"),
    ],
)
def test_config_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        LogMelCodecConfig(**values)


def test_config_refuses_wrong_types() -> None:
    with pytest.raises(Exception, match="Field 'codebook_size' expected int, got str"):
        LogMelCodecConfig(codebook_size="2048")
