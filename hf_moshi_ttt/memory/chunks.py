"""What the delta rule of a chunk of frames needs that does not depend on the fast weights, in torch.

With the notation of `delta_rule.py`, one triangular system per chunk gives

    (1 + tril(d_ij (k_i . k_j) b_j, -1)) [U | R] = [v | d_i k_i]
    Q = d_i q_i;   K = d_Ci b_i k_i;   P = d_ij (q_i . k_j) b_j, j <= i;   a = d_C

of the features q and k of norm 1, so that only E = U - R S, z = Q S + P E and S' = a S + K^T E are left to be done in
order. `triton_chunks.py` computes the same on the chip.

Legend: B batch, H heads, N = B * H, T frames, M chunks, C frames of a chunk, F head width, I width of the features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .online import OnlineTokens, SlowLayer, features

CHUNK_FRAMES = 32


class Chunks(NamedTuple):
    """U `[N, M, C, F]`, R, Q, K `[N, M, C, I]`, P `[N, M, C, C]` and a `[N, M]`."""

    values: Tensor
    readers: Tensor
    queries: Tensor
    keys: Tensor
    mixing: Tensor
    kept: Tensor


def prepared_chunks(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens) -> Chunks:
    """All chunks at once; frames that fill the last one write nothing and forget nothing.

    A frame of zeros has no features, as its factor is 0.
    """
    missing = -tokens.v.shape[2] % CHUNK_FRAMES
    q, k, v = (F.pad(x, (0, 0, 0, missing)) for x in tokens[:3])
    log_retention, write = (F.pad(x, (0, missing)).flatten(0, 1).unflatten(1, (-1, CHUNK_FRAMES)) for x in tokens[3:])
    both = (x.flatten(0, 1) for x in features(torch.cat([q, k], dim=2), slow_layers))
    (q, k), (factor_q, factor_k) = (x.unflatten(1, (2, -1, CHUNK_FRAMES)).unbind(1) for x in both)
    log_kept = log_retention.cumsum(-1)
    decay = (log_kept[..., :, None] - log_kept[..., None, :]).tril().exp().tril()
    kept, writes = log_kept.exp(), write * factor_k
    pairs = decay * writes[..., None, :]
    overlaps = torch.matmul(k, k.mT) * (pairs * factor_k[..., None])
    v = v.flatten(0, 1).unflatten(1, (-1, CHUNK_FRAMES))
    start = torch.cat([v, k * (kept * factor_k)[..., None]], dim=-1)
    solved = torch.linalg.solve_triangular(overlaps.tril(-1), start, upper=False, unitriangular=True)
    values, readers = solved.split([v.shape[-1], k.shape[-1]], dim=-1)
    queries, keys = q * (kept * factor_q)[..., None], k * pairs[..., -1, :, None]
    mixing = torch.matmul(q, k.mT) * (pairs * factor_q[..., None])
    return Chunks(values, readers, queries, keys, mixing, kept[..., -1])
