"""Makes the tables of a `LogMelCodecModel` from recordings: normalisation, PCA and residual k-means.

There is no training loop: one pass over the audio keeps an even random sample of frames, scikit-learn finds the PCA and
then one codebook after the other on what the coarser ones left over, each by mini-batch k-means. Centroids that no
sampled frame uses are moved to badly served frames, so that every code occurs. The result depends on the recordings,
their order and the seed only. `measure_codec` says how much of recordings that were not fitted survives.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor
from tqdm.auto import tqdm

from .audio import read_header
from .configuration_log_mel_codec import LogMelCodecConfig
from .log_mel_codec import LogMelCodecModel, nearest_centroids

FloatArray = NDArray[np.float32]

# A log-mel value that hardly moves (a band above the recordings' cut-off) is not blown up to full size.
MIN_FEATURE_SCALE = 0.1
KMEANS_BATCH_FRAMES = 4096
KMEANS_PASSES = 5
# Rounds of moving unused centroids; each is followed by one exact k-means step.
REFILL_ROUNDS = 3
NEAREST_CHUNK_FRAMES = 4096


@dataclass(frozen=True)
class CodecQuality:
    """What a codec keeps of recordings, all codebooks in use.

    Args:
        variance_kept: fraction of the log-mels' variance about their mean, pooled over a frame's values; at most 1.
        perplexity: per codebook, `exp` of the codes' entropy: `codebook_size` when all codes are as frequent.
        used_codes: per codebook, how many different codes occur.
        num_frames: frames measured.
    """

    variance_kept: float
    perplexity: list[float]
    used_codes: list[int]
    num_frames: int


def read_excerpts(paths: Sequence[Path], sampling_rate: int, total_sec: float, seed: int) -> Iterator[FloatArray]:
    """Yields one excerpt `[S]` at `sampling_rate` Hz of each recording, channels averaged, `total_sec` in all.

    Recordings come in random order and share the time evenly; what short ones leave goes to later ones.

    Raises:
        ValueError: without recordings, for a time that is not above 0, or a file that is no whole recording.
    """
    if not paths or total_sec <= 0:
        raise ValueError(
            f"{len(paths)} recordings, {total_sec} s in all; allowed: at least 1, above 0; check the folder."
        )
    rng = np.random.default_rng(seed)
    for done, index in enumerate(rng.permutation(len(paths))):
        excerpt_S = _read_excerpt(paths[index], sampling_rate, total_sec / (len(paths) - done), rng)
        total_sec -= len(excerpt_S) / sampling_rate
        yield excerpt_S


def _read_excerpt(path: Path, sampling_rate: int, most_sec: float, rng: np.random.Generator) -> FloatArray:
    read_header(path)  # refuses what was cut off
    with soundfile.SoundFile(path) as file:
        num_samples = min(file.frames, math.ceil(most_sec * file.samplerate))
        file.seek(int(rng.integers(file.frames - num_samples + 1)))
        samples_S = file.read(num_samples, dtype="float32", always_2d=True).mean(axis=1)
        return (
            soxr.resample(samples_S, file.samplerate, sampling_rate) if file.samplerate != sampling_rate else samples_S
        )


def fit_log_mel_codec(
    waveforms: Iterable[FloatArray],
    config: LogMelCodecConfig,
    seed: int = 0,
    max_frames: int = 60_000,
    show_progress: bool = True,
) -> LogMelCodecModel:
    """Fits all tables of a codec.

    Args:
        waveforms: recordings `[S]` at `config.sampling_rate`, read once, one at a time.
        config: sizes of the codec.
        seed: makes the sample of frames and the k-means repeatable.
        max_frames: frames kept for fitting; more cost time, fewer leave little evidence per centroid.
        show_progress: whether to show a bar over the codebooks.

    Raises:
        ValueError: for fewer frames than centroids or PCA dimensions, or unusable samples.
    """
    model = LogMelCodecModel(config).eval()
    log_mels_XG = _sample_frames(model, waveforms, max_frames, np.random.default_rng(seed))
    model.feature_mean.copy_(log_mels_XG.mean(dim=0))
    model.feature_scale.copy_(log_mels_XG.std(dim=0).clamp(min=MIN_FEATURE_SCALE))
    normal_XG = ((log_mels_XG - model.feature_mean) / model.feature_scale).numpy()
    pca = PCA(config.pca_dim, svd_solver="covariance_eigh").fit(normal_XG)
    model.pca_basis.copy_(torch.from_numpy(pca.components_))
    residual_XD = torch.from_numpy(normal_XG) @ model.pca_basis.T
    for k in tqdm(range(config.num_quantizers), desc="codebooks", disable=not show_progress):
        codebook_VD = _fit_codebook(residual_XD, config.codebook_size, seed + k)
        model.codebooks[k] = codebook_VD
        residual_XD = residual_XD - codebook_VD[_nearest(residual_XD, codebook_VD)]
    return model


def measure_codec(model: LogMelCodecModel, waveforms: Iterable[FloatArray]) -> CodecQuality:
    """Encodes recordings `[S]` and compares their log-mels with those that the codes represent.

    Raises:
        ValueError: without recordings.
    """
    log_mels, codes = [], []
    for samples_S in waveforms:
        input_B1S = torch.from_numpy(samples_S)[None, None]
        log_mels.append(model.log_mels(input_B1S)[0])
        codes.append(model.encode(input_B1S, return_dict=True).audio_codes[0])
    if not codes:
        raise ValueError("0 recordings to measure; allowed: 1 or more; hold some back from fitting.")
    log_mels_XG, codes_KX = torch.cat(log_mels), torch.cat(codes, dim=1)
    error_XG = log_mels_XG - model.log_mels_of_codes(codes_KX[None])[0]
    spread = (log_mels_XG - log_mels_XG.mean(dim=0)).square().sum()
    counts_KV = torch.stack([row_X.bincount(minlength=model.config.codebook_size) for row_X in codes_KX])
    shares_KV = counts_KV / codes_KX.shape[1]
    return CodecQuality(
        variance_kept=float(1 - error_XG.square().sum() / spread),
        perplexity=torch.special.entr(shares_KV).sum(dim=-1).exp().tolist(),
        used_codes=(counts_KV > 0).sum(dim=-1).tolist(),
        num_frames=codes_KX.shape[1],
    )


def _sample_frames(
    model: LogMelCodecModel, waveforms: Iterable[FloatArray], max_frames: int, rng: np.random.Generator
) -> Tensor:
    """Log-mels `[X, G]` of an even random sample of all frames, X at most `max_frames`, in bounded memory.

    Every frame draws a lot; the lowest lots stay.
    """
    kept_XG, lots_X = torch.empty(0, model.config.feature_dim), torch.empty(0, dtype=torch.float64)
    for samples_S in waveforms:
        new_XG = model.log_mels(torch.from_numpy(samples_S)[None, None])[0]
        kept_XG = torch.cat([kept_XG, new_XG])
        lots_X = torch.cat([lots_X, torch.from_numpy(rng.random(len(new_XG)))])
        if len(kept_XG) > max_frames:
            lots_X, lowest_X = lots_X.topk(max_frames, largest=False)
            kept_XG = kept_XG[lowest_X]
    needed = max(model.config.codebook_size, model.config.pca_dim)
    if len(kept_XG) < needed:
        raise ValueError(
            f"{len(kept_XG)} frames to fit on; allowed: at least {needed}, one per centroid and PCA dimension; "
            "give more audio, raise max_frames, or lower codebook_size and pca_dim."
        )
    return kept_XG


def _fit_codebook(points_XD: Tensor, codebook_size: int, seed: int) -> Tensor:
    """Centroids `[V, D]` of points, each of them nearest to some point as far as there are different points."""
    kmeans = MiniBatchKMeans(
        codebook_size,
        init="random",
        batch_size=KMEANS_BATCH_FRAMES,
        max_iter=KMEANS_PASSES,
        n_init=1,
        random_state=seed,
        tol=0.0,
        max_no_improvement=None,
        compute_labels=False,
    ).fit(points_XD.numpy())
    centroids_VD = torch.from_numpy(kmeans.cluster_centers_)
    for _ in range(REFILL_ROUNDS):
        centroids_VD = _refilled(points_XD, centroids_VD)
    return centroids_VD


def _refilled(points_XD: Tensor, centroids_VD: Tensor) -> Tensor:
    """One exact k-means step; unused centroids go to the points that are farthest from their own centroid."""
    nearest_X = _nearest(points_XD, centroids_VD)
    counts_V = nearest_X.bincount(minlength=len(centroids_VD))
    means_VD = torch.zeros_like(centroids_VD).index_add_(0, nearest_X, points_XD) / counts_V[:, None].clamp(min=1)
    unused_U = (counts_V == 0).nonzero()[:, 0]
    distance_X = (points_XD - centroids_VD[nearest_X]).square().sum(dim=-1)
    means_VD[unused_U] = points_XD[distance_X.topk(len(unused_U)).indices]
    return means_VD


def _nearest(points_XD: Tensor, centroids_VD: Tensor) -> Tensor:
    pieces = points_XD.split(NEAREST_CHUNK_FRAMES)
    return torch.cat([nearest_centroids(piece_XD, centroids_VD) for piece_XD in pieces])
