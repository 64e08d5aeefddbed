"""The inner loop of a test-time-training layer on plain tensors: its parts, and the naive form that is the truth.

Each head owns a small network whose weights are updated by gradient descent on the stream. Time is cut into
mini-batches of C frames; all gradients of a mini-batch are taken at the weights it started with (Sun et al. 2024,
"Learning to (Learn at Test Time)", section 2.4), which makes the dual form exact at any depth. `naive_ttt` here follows
the definition frame by frame, with autograd for the inner gradient; `scan.ttt` is the fast form of the same.

Legend: B batch, H heads, T frames, C frames per mini-batch, M mini-batches, F head width, N inner layers, I and O the
input and output width of an inner layer. A learning rate of 0 makes a frame contribute nothing: padding needs no mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..transformer.stream_state import StreamState

LN_EPS = 1e-6


@dataclass(frozen=True)
class InnerNetwork:
    """What the outer loop trains of the inner network: the weights every fresh memory starts from, and its layer norm.

    Args:
        weights: N tensors `[H, I, O]`.
        biases: N tensors `[H, 1, O]`; the last one is absent when the output has no bias.
        norm_weight_HF, norm_bias_HF: affine of the layer norm after the network.
        position_weights_C: c_i, the weight of the inner step at each position of a mini-batch, not negative.
        retention_H: factor on what was learned after each mini-batch, or None to keep all of it.
        normalize_target: whether the target v - k is layer-normed with the affine (default preset) or raw (paper).
        first_learned: the first layer that inner steps change; the layers before it stay at their start.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    norm_weight_HF: Tensor
    norm_bias_HF: Tensor
    position_weights_C: Tensor
    retention_H: Tensor | None = None
    normalize_target: bool = True
    first_learned: int = 0

    @property
    def mini_batch_size(self) -> int:
        """C."""
        return self.position_weights_C.shape[0]


class InnerTokens(NamedTuple):
    """What the outer network says to the inner one: q, k, v `[B, H, T, F]` and learning rates `[B, H, T]`."""

    q: Tensor
    k: Tensor
    v: Tensor
    lr: Tensor


@dataclass
class TTTState(StreamState):
    """The memory of one layer, one row per sample; all zeros is a fresh memory.

    Args:
        delta_weights, delta_biases: what was learned, as a difference to the trained start weights: `[B, H, I, O]`,
            `[B, H, 1, O]` per learned inner layer.
        ring_inputs, ring_grads: inputs and output gradients of each learned inner layer for the frames of the
            unfinished mini-batch, `[B, H, C, I]` and `[B, H, C, O]`; anything where there is no frame yet.
        ring_lr: their learning rates `[B, H, C]`, 0 where there is no frame yet.
        position: `[B]` int64, frames in the unfinished mini-batch, 0..C-1.
    """

    delta_weights: tuple[Tensor, ...]
    delta_biases: tuple[Tensor, ...]
    ring_inputs: tuple[Tensor, ...]
    ring_grads: tuple[Tensor, ...]
    ring_lr: Tensor
    position: Tensor


@dataclass
class MemoryDiagnostics:
    """What one layer's memory did in a call; detached tensors, nothing is read back from the device.

    Squared errors are means over F, so with a layer-normed target of a fresh layer 1 is what a constant answer reaches
    and 2 what a random one does; with online steps they are in units of v, before the factor on the answers.

    Args:
        loss_initial, loss_before, loss_after: `[B, H, T]`, the inner loss at each frame's key with the start weights
            W_0, with the weights just before the frame's own step, and just after it (Sun et al. 2024, figure 5); None
            where no error is minimised.
        delta_ratio: `[B, H]`, norm of what was learned by the norm of the start weights; None without start weights.
        key_dependent_share: `[B, H]`, the share of the answers' mean square that is variance between the keys of this
            call, all asked of the memory after it. A collapsed memory answers every key alike: 0. NaN for one frame.
        gate: `[D]`, the factor on the branch, where the layer is part of a model.
        branch_to_residual: `[B, T]`, RMS of the branch by that of the residual stream it is added to, likewise; NaN
            where the stream is zero (a frame of absent codes).
        write_strength: `[B, H]`, the mean over frames of the online step b.
        key_cosine_before, key_cosine_after: `[B, H]`, the mean cosine between keys of different frames, as projected
            and after the front end; NaN for one frame, None without a front end.
        answer_norm_written, answer_norm_unwritten: `[B, H]`, the mean norm of the answers to this call's keys, and to
            the same keys with their channels rotated by half the width, which nothing was written to.
    """

    loss_initial: Tensor | None
    loss_before: Tensor | None
    loss_after: Tensor | None
    delta_ratio: Tensor | None
    key_dependent_share: Tensor
    gate: Tensor | None = None
    branch_to_residual: Tensor | None = None
    write_strength: Tensor | None = None
    key_cosine_before: Tensor | None = None
    key_cosine_after: Tensor | None = None
    answer_norm_written: Tensor | None = None
    answer_norm_unwritten: Tensor | None = None


@dataclass
class TTTLayerOutput:
    """What a TTT layer returns: the branch `output` `[B, T, D]`, the memory `state` after the last frame, and what it
    did (`diagnostics`), where asked for."""

    output: Tensor
    state: StreamState
    diagnostics: MemoryDiagnostics | None = None


def key_dependent_share(answers: Tensor) -> Tensor:
    """Unbiased share `[B, H]` of the mean square of `answers` `[B, H, T, F]` that is variance over T; NaN for T = 1."""
    if answers.shape[2] == 1:
        return answers.new_full(answers.shape[:2], torch.nan)
    return answers.var(2, correction=1).sum(-1) / answers.square().sum(-1).mean(2)


def key_cosine(k: Tensor) -> Tensor:
    """Mean cosine `[B, H]` between keys `[B, H, T, F]` of different frames; NaN for T = 1. A zero key has cosine 0."""
    length, unit = k.shape[2], F.normalize(k, dim=-1)
    pairs = unit.sum(2).square().sum(-1) - unit.square().sum((-2, -1))
    return pairs / (length * (length - 1)) if length > 1 else torch.full_like(pairs, torch.nan)


def init_state(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    mini_batch_size: int,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> TTTState:
    """A fresh memory of `batch_size` rows for learned layers of these shapes, `[H, I, O]` and `[H, 1, O]`."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch_size, weights[0].shape[0], *shape, dtype=dtype, device=device)

    return TTTState(
        delta_weights=tuple(zeros(*w.shape[1:]) for w in weights),
        delta_biases=tuple(zeros(*b.shape[1:]) for b in biases),
        ring_inputs=tuple(zeros(mini_batch_size, w.shape[1]) for w in weights),
        ring_grads=tuple(zeros(mini_batch_size, w.shape[2]) for w in weights),
        ring_lr=zeros(mini_batch_size),
        position=torch.zeros(batch_size, dtype=torch.int64, device=device),
    )


def fresh_state(net: InnerNetwork, tokens: InnerTokens) -> TTTState:
    """The memory before the first of `tokens`."""
    first, size = net.first_learned, net.mini_batch_size
    batch, dtype, device = tokens.q.shape[0], tokens.q.dtype, tokens.q.device
    return init_state(net.weights[first:], net.biases[first:], size, batch, dtype, device)


def layer_norm(x: Tensor, weight_HF: Tensor, bias_HF: Tensor) -> Tensor:
    """Layer norm over the head width of `x` `[B, H, T, F]` with one affine per head."""
    return F.layer_norm(x, x.shape[-1:], eps=LN_EPS) * weight_HF[:, None] + bias_HF[:, None]


def inner_target(net: InnerNetwork, k: Tensor, v: Tensor) -> Tensor:
    """What the inner network learns to answer to a key, `[B, H, T, F]`."""
    return layer_norm(v - k, net.norm_weight_HF, net.norm_bias_HF) if net.normalize_target else v - k


def inner_loss(net: InnerNetwork, output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of the normed network output to the target, summed over F: `[B, H, T]`."""
    return 0.5 * (layer_norm(output, net.norm_weight_HF, net.norm_bias_HF) - target).square().sum(-1)


def apply_network(
    x: Tensor, weights: tuple[Tensor, ...] | list[Tensor], biases: tuple[Tensor, ...] | list[Tensor]
) -> Tensor:
    """The inner network without its layer norm, f_res, of `x` `[..., T, F]` at `[..., I, O]` and `[..., 1, O]`."""
    for layer, weight in enumerate(weights):
        x = x @ weight
        if layer < len(biases):
            x = x + biases[layer]
        if layer < len(weights) - 1:
            x = F.gelu(x, approximate="tanh")
    return x


def frozen_features(net: InnerNetwork, x: Tensor) -> Tensor:
    """The input of the first learned layer, `[B, H, T, I]`: what the layers before it make of `x` `[B, H, T, F]`."""
    first = net.first_learned
    return F.gelu(apply_network(x, net.weights[:first], net.biases[:first]), approximate="tanh") if first else x


def answer(net: InnerNetwork, q: Tensor, output: Tensor) -> Tensor:
    """z = q + LN(f_res(q)) from the network's output."""
    return q + layer_norm(output, net.norm_weight_HF, net.norm_bias_HF)


def naive_ttt(net: InnerNetwork, tokens: InnerTokens) -> tuple[Tensor, TTTState]:
    """The definition: one frame at a time from a fresh memory, the inner gradient by autograd.

    Returns:
        z `[B, H, T, F]` and the state after the last frame (without the rings, which only the fast form needs).
    """
    batch, length, size, first = tokens.q.shape[0], tokens.q.shape[2], net.mini_batch_size, net.first_learned
    state = fresh_state(net, tokens)
    target = inner_target(net, tokens.k, tokens.v)
    deltas = [*state.delta_weights, *state.delta_biases]
    start = [p.expand(batch, *p.shape) for p in (*net.weights[first:], *net.biases[first:])]
    outputs = []
    for begin in range(0, length, size):
        at_start = [p + d for p, d in zip(start, deltas, strict=True)]
        summed = [torch.zeros_like(d) for d in deltas]
        for t in range(begin, min(begin + size, length)):
            grads = _naive_gradient(net, at_start, tokens.k[:, :, t : t + 1], target[:, :, t : t + 1])
            lr = tokens.lr[:, :, t, None, None]
            summed = [total + lr * grad for total, grad in zip(summed, grads, strict=True)]
            position_weight = net.position_weights_C[t - begin]
            now = [p - position_weight * total for p, total in zip(at_start, summed, strict=True)]
            q = tokens.q[:, :, t : t + 1]
            outputs.append(answer(net, q, _with_learned(net, q, now)))
        if begin + size <= length:
            retention = 1 if net.retention_H is None else net.retention_H[:, None, None]
            deltas = [
                retention * d - net.position_weights_C[-1] * total for d, total in zip(deltas, summed, strict=True)
            ]
    count = len(state.delta_weights)
    state = replace(state, delta_weights=tuple(deltas[:count]), delta_biases=tuple(deltas[count:]))
    return torch.cat(outputs, dim=2), replace(state, position=torch.full_like(state.position, length % size))


def _naive_gradient(net: InnerNetwork, learned: list[Tensor], k: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Gradient of the inner loss of one frame by each learned weight and bias, differentiable itself."""
    with torch.enable_grad():
        leaves = [p if p.requires_grad else p.detach().requires_grad_() for p in learned]
        loss = inner_loss(net, _with_learned(net, k, leaves), target).sum()
        return torch.autograd.grad(loss, leaves, create_graph=True)


def _with_learned(net: InnerNetwork, x: Tensor, learned: list[Tensor]) -> Tensor:
    """f_res with these weights and biases in the learned layers."""
    first, count = net.first_learned, len(net.weights) - net.first_learned
    weights, biases = [*net.weights[:first], *learned[:count]], [*net.biases[:first], *learned[count:]]
    return apply_network(x, weights, biases)
