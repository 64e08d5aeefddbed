"""The fast form of online test-time training: whole chunks of frames as a few matrix products.

With e_t the error that frame t finds, u_t = b_t e_t its write, S the fast weights before a chunk, and
d_ij = a_{j+1} ... a_i (d_i from the chunk's start), the recurrence of `online.py` unrolls to

    e_i = v_i - d_i S^T phi(k_i) - sum over j < i of d_ij (phi(k_i) . phi(k_j)) b_j e_j
    z_i = d_i S^T phi(q_i) + sum over j <= i of d_ij (phi(q_i) . phi(k_j)) u_j
    S' = d_C S + sum over j of d_Cj phi(k_j) u_j^T

so the errors of a chunk solve one triangular system (the WY form of Yang et al. 2024, "Parallelizing Linear
Transformers with the Delta Rule over Sequence Length"). Training keeps S between groups of chunks alone and computes
the inside of a group again, so features never stay alive. A single frame takes a short way of its own.

Legend: B batch, H heads, N = B * H, T frames, C frames of a chunk, F head width, I width of the features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .online import OnlineTokens, SlowLayer, features

_CHUNK_FRAMES = 64
_GROUP_CHUNKS = 4


class Learned(NamedTuple):
    """What a call did: answers z `[B, H, T, F]`, the fast weights after it `[B, H, I, F]`, and the errors e
    `[B, H, T, F]`, where asked for."""

    answers: Tensor
    fast_weights: Tensor
    errors: Tensor | None = None


def delta_rule(
    slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor, with_errors: bool = False
) -> Learned:
    """Learns from all frames and answers to them.

    Args:
        slow_layers: of `online.features`.
        fast_weights: S before the first frame. It is not changed.
        with_errors: whether to return the errors that the frames found.
    """
    if tokens.v.shape[2] == 1:
        return _single_frame(slow_layers, tokens, fast_weights, with_errors)
    groups = []
    for group in zip(*(x.split(_GROUP_CHUNKS * _CHUNK_FRAMES, dim=2) for x in tokens), strict=True):
        arguments = (slow_layers, OnlineTokens(*group), fast_weights, with_errors)
        if torch.is_grad_enabled():
            groups.append(checkpoint(_group, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            groups.append(_group(*arguments))
        fast_weights = groups[-1].fast_weights
    return _joined(groups, dim=2)


def _joined(parts: Sequence[Learned], dim: int) -> Learned:
    """Parts that follow each other as one."""
    answers, errors = torch.cat([part.answers for part in parts], dim), None
    if parts[0].errors is not None:
        errors = torch.cat([part.errors for part in parts if part.errors is not None], dim)
    return Learned(answers, parts[-1].fast_weights, errors)


def _group(
    slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor, with_errors: bool
) -> Learned:
    """Chunks one after the other, on one axis of samples and heads."""
    phi_q, phi_k = (features(x, slow_layers).flatten(0, 1) for x in (tokens.q, tokens.k))
    frames = (phi_q, phi_k, *(x.flatten(0, 1) for x in tokens[2:]))
    chunks, fast = [], fast_weights.flatten(0, 1)
    for chunk in zip(*(x.split(_CHUNK_FRAMES, dim=1) for x in frames), strict=True):
        chunks.append(_chunk(*chunk, fast, with_errors))
        fast = chunks[-1].fast_weights
    whole = _joined(chunks, dim=1)
    return Learned(*(None if x is None else x.unflatten(0, tokens.v.shape[:2]) for x in whole))


def _chunk(
    phi_q: Tensor, phi_k: Tensor, v: Tensor, log_retention: Tensor, write: Tensor, fast: Tensor, with_errors: bool
) -> Learned:
    """One chunk of features `[N, C, I]`, values `[N, C, F]`, gates `[N, C]` and S `[N, I, F]`."""
    log_kept = log_retention.cumsum(1)
    decay = (log_kept[:, :, None] - log_kept[:, None, :]).tril().exp().tril()  # d_ij
    kept = log_kept.exp()[:, :, None]
    seen_k, seen_q = (kept * torch.bmm(phi, fast) for phi in (phi_k, phi_q))
    system = torch.bmm(phi_k, phi_k.mT) * decay * write[:, None, :]
    errors = torch.linalg.solve_triangular(system.tril(-1), v - seen_k, upper=False, unitriangular=True)
    writes = write[:, :, None] * errors
    answers = torch.baddbmm(seen_q, torch.bmm(phi_q, phi_k.mT) * decay, writes)
    after = torch.baddbmm(kept[:, -1:] * fast, (decay[:, -1, :, None] * phi_k).mT, writes)
    return Learned(answers, after, errors if with_errors else None)


def _single_frame(
    slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor, with_errors: bool
) -> Learned:
    """The recurrence itself."""
    phi_q, phi_k = (features(x, slow_layers) for x in (tokens.q, tokens.k))
    kept = fast_weights * tokens.log_retention.exp()[..., None]
    errors = tokens.v - phi_k @ kept
    after = kept + phi_k.mT @ (tokens.write[..., None] * errors)
    return Learned(phi_q @ after, after, errors if with_errors else None)
