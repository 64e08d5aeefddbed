"""Online test-time training of the last inner layer on plain tensors: its parts, and the naive form that is the truth.

The inner model of a head is f(x; S) = S^T phi(x): slow features phi and one fast layer S, zero in a fresh memory. Every
frame takes one step of gradient descent on 1/2 ||S^T phi(k_t) - v_t||^2, in order, from the weights that the frame
before left, after these have been shrunk by the retention a_t:

    S_t = a_t S_{t-1} + b_t phi(k_t) (v_t - a_t S_{t-1}^T phi(k_t))^T;   z_t = S_t^T phi(q_t)

In closed form that is the delta rule (Schlag et al. 2021, "Linear Transformers Are Secretly Fast Weight Programmers",
equation 24) on features, with the decay of Yang et al. 2024, "Gated Delta Networks". Features have norm 1 or 0 and
0 <= b_t <= 1, so one write is bounded by the error that it mends: ||S_t||^2 <= a_t^2 ||S_{t-1}||^2 + ||v_t||^2.

Legend: B batch, H heads, T frames, F head width, I width of the features, E = I / F, N inner layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6


class OnlineTokens(NamedTuple):
    """What the outer network says to the inner one.

    Args:
        q, k, v: `[B, H, T, F]`.
        log_retention: ln a_t, `[B, H, T]`, at most 0.
        write: b_t, `[B, H, T]`, 0 to 1.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    log_retention: Tensor
    write: Tensor


class SlowLayer(NamedTuple):
    """A layer of the features: weight `[H, in, out]` and bias `[H, 1, out]`, followed by the tanh-GELU."""

    weight: Tensor
    bias: Tensor


def features(x: Tensor, slow_layers: Sequence[SlowLayer]) -> tuple[Tensor, Tensor]:
    """phi(x) as features `[B, H, T, I]` and the factor `[B, H, T]` on them, of x `[B, H, T, F]`.

    Their product has unit norm, and falls to 0 where the RMS of x falls below 1e-3.
    """
    present = x.square().mean(-1)
    for weight, bias in slow_layers:
        normed = F.rms_norm(x, x.shape[-1:], eps=NORM_EPS).transpose(0, 1)
        hidden = torch.baddbmm(bias, normed.flatten(1, 2), weight)
        x = F.gelu(hidden, approximate="tanh").unflatten(1, normed.shape[1:3]).transpose(0, 1)
    square = torch.linalg.vector_norm(x, dim=-1).square()
    return x, torch.rsqrt(square + NORM_EPS) * present / (present + NORM_EPS)


def unit_features(x: Tensor, slow_layers: Sequence[SlowLayer]) -> Tensor:
    """phi(x) `[B, H, T, I]`."""
    found, factor = features(x, slow_layers)
    return found * factor[..., None]


def naive_online(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor) -> tuple[Tensor, Tensor]:
    """The definition: one frame at a time. z `[B, H, T, F]`, and S after the last frame."""
    phi_q, phi_k = (unit_features(x, slow_layers) for x in (tokens.q, tokens.k))
    retention, answers = tokens.log_retention.exp(), []
    for t in range(tokens.v.shape[2]):
        key = phi_k[:, :, t, :, None]
        kept = retention[:, :, t, None, None] * fast_weights
        error = tokens.v[:, :, t, None] - key.mT @ kept
        fast_weights = kept + tokens.write[:, :, t, None, None] * key @ error
        answers.append(phi_q[:, :, t, None] @ fast_weights)
    return torch.cat(answers, dim=2), fast_weights
