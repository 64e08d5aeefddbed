"""The fast form of online test-time training: whole chunks of frames as a few matrix products.

With e_t the error that frame t finds, b_t e_t its write, S the fast weights before a chunk, and d_ij = a_{j+1} ... a_i
(d_i from the chunk's start), the recurrence of `online.py` unrolls to

    e_i = v_i - d_i S^T phi(k_i) - sum over j < i of d_ij (phi(k_i) . phi(k_j)) b_j e_j
    z_i = d_i S^T phi(q_i) + sum over j <= i of d_ij (phi(q_i) . phi(k_j)) b_j e_j
    S' = d_C S + sum over j of d_Cj phi(k_j) b_j e_j^T

so the errors of a chunk solve one triangular system (the WY form of Yang et al. 2024, "Parallelizing Linear
Transformers with the Delta Rule over Sequence Length"). The factor that gives phi its norm is applied to what is C or F
wide, never to the features, which are the widest. A single frame takes a short way of its own.

Legend: B batch, H heads, N = B * H, T frames, C frames of a chunk, F head width, I width of the features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .online import OnlineTokens, SlowLayer, features, unit_features

_CHUNK_FRAMES = 32


class Learned(NamedTuple):
    """What a call did: answers z `[B, H, T, F]`, the errors e `[B, H, T, F]`, and the fast weights `[B, H, I, F]`
    after it."""

    answers: Tensor
    errors: Tensor
    fast_weights: Tensor


class _Chunk(NamedTuple):
    """Frames of a chunk: features `[N, C, I]` and their factors `[N, C]`, values `[N, C, F]`, gates `[N, C]`."""

    q: Tensor
    factor_q: Tensor
    k: Tensor
    factor_k: Tensor
    v: Tensor
    log_retention: Tensor
    write: Tensor


def delta_rule(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> Learned:
    """Learns from all frames and answers to them.

    Args:
        fast_weights: S before the first frame. It is not changed.
    """
    if tokens.v.shape[2] == 1:
        return _single_frame(slow_layers, tokens, fast_weights)
    shape, fast = tokens.v.shape, fast_weights.flatten(0, 1)
    frames = (*features(tokens.q, slow_layers), *features(tokens.k, slow_layers), *tokens[2:])
    chunks = zip(*(x.flatten(0, 1).split(_CHUNK_FRAMES, dim=1) for x in frames), strict=True)
    answers, errors = [], []
    for chunk in chunks:
        done = _walk_chunk(_Chunk(*chunk), fast)
        answers.append(done.answers)
        errors.append(done.errors)
        fast = done.fast_weights
    z, e = (torch.cat(x, dim=1).view(shape) for x in (answers, errors))
    return Learned(z, e, fast.view(fast_weights.shape))


def _walk_chunk(chunk: _Chunk, fast: Tensor) -> Learned:
    """One chunk, from S `[N, I, F]`."""
    log_kept = chunk.log_retention.cumsum(1)
    decay = (log_kept[:, :, None] - log_kept[:, None, :]).tril().exp().tril()  # d_ij
    kept, factor_k, writes = log_kept.exp(), chunk.factor_k, chunk.write * chunk.factor_k
    seen = torch.bmm(chunk.k, fast) * (kept * factor_k)[:, :, None]
    overlaps = torch.bmm(chunk.k, chunk.k.mT) * (decay * factor_k[:, :, None] * writes[:, None, :])
    errors = torch.linalg.solve_triangular(overlaps.tril(-1), chunk.v - seen, upper=False, unitriangular=True)
    written = writes[:, :, None] * errors
    recalled = torch.bmm(chunk.q, fast) * kept[:, :, None]
    answers = torch.baddbmm(recalled, torch.bmm(chunk.q, chunk.k.mT) * decay, written) * chunk.factor_q[:, :, None]
    after = torch.baddbmm(fast * kept[:, -1, None, None], chunk.k.mT, decay[:, -1, :, None] * written)
    return Learned(answers, errors, after)


def _single_frame(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> Learned:
    """The recurrence itself; slow and fast weights are read once for query and key together."""
    both, count = torch.cat([tokens.q, tokens.k], dim=2), len(fast_weights) * fast_weights.shape[1]
    phi = unit_features(both, slow_layers).flatten(0, 1)
    phi_q, phi_k = phi.split(1, dim=1)
    retention, write = (x.reshape(count, 1, 1) for x in (tokens.log_retention.exp(), tokens.write))
    fast = fast_weights.flatten(0, 1)
    recalled, seen = (torch.bmm(phi, fast) * retention).split(1, dim=1)
    errors = tokens.v.flatten(0, 1) - seen
    written = write * errors
    answers = torch.baddbmm(recalled, torch.bmm(phi_q, phi_k.mT), written)
    after = (fast * retention).baddbmm_(phi_k.mT, written)
    shape = tokens.v.shape
    return Learned(answers.view(shape), errors.view(shape), after.view(fast_weights.shape))
