"""Fitting: repeatable by seed, no dead codes, bounded samples of frames, and the reading of recordings."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hf_moshi_ttt.codec.configuration_log_mel_codec import LogMelCodecConfig
from hf_moshi_ttt.codec.log_mel_codec_fit import FloatArray, fit_log_mel_codec, measure_codec, read_excerpts

SMALL = {"codebook_size": 32, "num_quantizers": 2, "pca_dim": 16}


def coloured_noise_S(duration_sec: float, seed: int) -> FloatArray:
    """Noise whose loudness and brightness change every 0.1 s, at 24 kHz."""
    rng = np.random.default_rng(seed)
    blocks = rng.standard_normal((int(duration_sec / 0.1), 2400)) * 10 ** rng.uniform(
        -4, -1, (int(duration_sec / 0.1), 1)
    )
    smooth = np.apply_along_axis(np.convolve, 1, blocks, np.ones(8) / 8, "same")
    share = rng.uniform(0, 1, (len(blocks), 1))
    return (share * blocks + (1 - share) * smooth).ravel().astype(np.float32)


def test_same_seed_same_tables() -> None:
    waveforms = [coloured_noise_S(20.0, 0), coloured_noise_S(10.0, 1)]
    first, second, other = (
        fit_log_mel_codec(iter(waveforms), LogMelCodecConfig(**SMALL), seed, max_frames=200, show_progress=False)
        for seed in (0, 0, 1)
    )
    for name, table in first.named_buffers():
        assert torch.equal(table, second.get_buffer(name))
    assert not torch.equal(first.codebooks, other.codebooks)


def test_every_centroid_is_used_and_most_variance_kept() -> None:
    waveform_S = coloured_noise_S(60.0, 2)
    model = fit_log_mel_codec([waveform_S], LogMelCodecConfig(**SMALL), show_progress=False)
    quality = measure_codec(model, [waveform_S])
    assert quality.num_frames == 750
    assert quality.used_codes == [32, 32]
    assert all(8 < perplexity <= 32 for perplexity in quality.perplexity)
    assert 0.7 < quality.variance_kept < 1
    assert measure_codec(model, [coloured_noise_S(20.0, 3)]).variance_kept > 0.6


def test_mostly_silent_audio_still_fits() -> None:
    waveform_S = np.concatenate([np.zeros(24_000 * 20, dtype=np.float32), coloured_noise_S(10.0, 4)])
    model = fit_log_mel_codec([waveform_S], LogMelCodecConfig(**SMALL), show_progress=False)
    assert all(table.isfinite().all() for table in model.buffers())
    quality = measure_codec(model, [waveform_S])
    assert quality.variance_kept > 0.7
    assert quality.used_codes == [32, 32]


def test_too_little_audio_is_refused() -> None:
    message = "12 frames to fit on; allowed: at least 32, one per centroid and PCA dimension; give more audio"
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_log_mel_codec([coloured_noise_S(0.9, 0)], LogMelCodecConfig(**SMALL), show_progress=False)


def test_nothing_to_measure_is_refused() -> None:
    model = fit_log_mel_codec([coloured_noise_S(10.0, 0)], LogMelCodecConfig(**SMALL), show_progress=False)
    with pytest.raises(ValueError, match="0 recordings to measure; allowed: 1 or more"):
        measure_codec(model, [])


def test_excerpts_are_mono_resampled_and_share_the_time(tmp_path: Path) -> None:
    stereo_SC = np.stack([np.full(16_000 * 4, 0.5), np.full(16_000 * 4, -0.25)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo_SC, 16_000)
    soundfile.write(tmp_path / "short.flac", np.zeros(24_000), 24_000)
    soundfile.write(tmp_path / "long.flac", np.zeros(24_000 * 30), 24_000)
    paths = sorted(tmp_path.iterdir())
    lengths_sec = [len(excerpt_S) / 24_000 for excerpt_S in read_excerpts(paths, 24_000, 9.0, seed=0)]
    assert sum(lengths_sec) == pytest.approx(9.0, abs=2.1)
    assert max(lengths_sec) <= 8.0
    (mono_S,) = read_excerpts(paths[2:], 24_000, 2.0, seed=0)
    assert mono_S.shape == (48_000,)
    assert mono_S[1000:-1000] == pytest.approx(0.125, abs=1e-3)


def test_no_recordings_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("0 recordings, 60.0 s in all; allowed: at least 1, above 0")):
        next(read_excerpts([], 24_000, 60.0, seed=0))
