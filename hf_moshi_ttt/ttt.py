"""The inner loop of a test-time-training layer, on plain tensors: the naive truth and the fast form.

Each head owns a small network whose weights are updated by gradient descent on the stream. Time is cut into
mini-batches of C frames; all gradients of a mini-batch are taken at the weights it started with (Sun et al. 2024,
"Learning to (Learn at Test Time)", section 2.4), which makes the dual form exact at any depth. Two functions compute
the same thing:

* `naive_ttt` follows the definition frame by frame, with autograd for the inner gradient.
* `ttt` takes any number of frames at any place of a mini-batch, with carried state, in batched matrix products.

Legend: B batch, H heads, T frames, C frames per mini-batch, M mini-batches, F head width, N inner layers, I and O the
input and output width of an inner layer. A learning rate of 0 makes a frame contribute nothing: padding needs no mask.
"""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LN_EPS = 1e-6
_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


@dataclass(frozen=True)
class InnerNetwork:
    """What the outer loop trains of the inner network: the weights every fresh memory starts from, and its layer norm.

    Args:
        weights: N tensors `[H, I, O]`.
        biases: N tensors `[H, 1, O]`; the last one is absent when the output has no bias.
        norm_weight_HF, norm_bias_HF: affine of the layer norm behind the network.
        place_weights_C: c_i, the weight of the inner step at each place of a mini-batch, not negative.
        keep_H: factor on what was learned after each mini-batch; 1 keeps all.
        normalize_target: whether the target v - k is layer-normed with the affine (default preset) or raw (paper).
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    norm_weight_HF: Tensor
    norm_bias_HF: Tensor
    place_weights_C: Tensor
    keep_H: Tensor
    normalize_target: bool = True

    @property
    def mini_batch_size(self) -> int:
        """C."""
        return self.place_weights_C.shape[0]


class InnerTokens(NamedTuple):
    """What the outer network says to the inner one: q, k, v `[B, H, T, F]` and learning rates `[B, H, T]`."""

    q: Tensor
    k: Tensor
    v: Tensor
    lr: Tensor


@dataclass
class TTTState:
    """The memory of one layer, one row per sample; all zeros is a fresh memory.

    Args:
        delta_weights, delta_biases: what was learned, as a difference to the trained start weights: `[B, H, I, O]`,
            `[B, H, 1, O]` per inner layer.
        ring_inputs, ring_grads: inputs and output gradients of each inner layer for the frames of the unfinished
            mini-batch, `[B, H, C, I]` and `[B, H, C, O]`.
        ring_lr: their learning rates `[B, H, C]`, 0 where there is no frame yet.
        place: `[B]` int64, frames in the unfinished mini-batch, 0..C-1.
    """

    delta_weights: tuple[Tensor, ...]
    delta_biases: tuple[Tensor, ...]
    ring_inputs: tuple[Tensor, ...]
    ring_grads: tuple[Tensor, ...]
    ring_lr: Tensor
    place: Tensor


def init_state(net: InnerNetwork, batch_size: int, dtype: torch.dtype = torch.float32) -> TTTState:
    """A fresh memory of `batch_size` rows on the network's device."""
    heads, frames = net.keep_H.shape[0], net.mini_batch_size

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(batch_size, heads, *shape, dtype=dtype, device=net.keep_H.device)

    return TTTState(
        delta_weights=tuple(zeros(*w.shape[1:]) for w in net.weights),
        delta_biases=tuple(zeros(*b.shape[1:]) for b in net.biases),
        ring_inputs=tuple(zeros(frames, w.shape[1]) for w in net.weights),
        ring_grads=tuple(zeros(frames, w.shape[2]) for w in net.weights),
        ring_lr=zeros(frames),
        place=torch.zeros(batch_size, dtype=torch.int64, device=net.keep_H.device),
    )


def layer_norm(x: Tensor, weight_HF: Tensor, bias_HF: Tensor) -> Tensor:
    """Layer norm over the head width of `x` `[B, H, T, F]` with one affine per head."""
    return F.layer_norm(x, x.shape[-1:], eps=LN_EPS) * weight_HF[:, None] + bias_HF[:, None]


def inner_target(net: InnerNetwork, k: Tensor, v: Tensor) -> Tensor:
    """What the inner network learns to answer to a key, `[B, H, T, F]`."""
    return layer_norm(v - k, net.norm_weight_HF, net.norm_bias_HF) if net.normalize_target else v - k


def inner_loss(net: InnerNetwork, output: Tensor, target: Tensor) -> Tensor:
    """Half the squared distance of the normed network output to the target, summed over F: `[B, H, T]`."""
    return 0.5 * (layer_norm(output, net.norm_weight_HF, net.norm_bias_HF) - target).square().sum(-1)


def apply_network(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """The inner network without its layer norm, f_res, of `x` `[..., T, F]` at `[..., I, O]` and `[..., 1, O]`."""
    for layer, weight in enumerate(weights):
        x = x @ weight
        if layer < len(biases):
            x = x + biases[layer]
        if layer < len(weights) - 1:
            x = F.gelu(x, approximate="tanh")
    return x


def naive_ttt(net: InnerNetwork, tokens: InnerTokens) -> tuple[Tensor, TTTState]:
    """The definition: one frame at a time from a fresh memory, the inner gradient by autograd.

    Returns:
        z `[B, H, T, F]` and the state behind the last frame (without the rings, which only the fast form needs).
    """
    batch, length, size = tokens.q.shape[0], tokens.q.shape[2], net.mini_batch_size
    state = init_state(net, batch, tokens.q.dtype)
    target = inner_target(net, tokens.k, tokens.v)
    start = [p.expand(batch, *p.shape) for p in (*net.weights, *net.biases)]
    deltas = [*state.delta_weights, *state.delta_biases]
    outputs = []
    for first in range(0, length, size):
        at_start = [p + d for p, d in zip(start, deltas, strict=True)]
        summed = [torch.zeros_like(d) for d in deltas]
        for t in range(first, min(first + size, length)):
            grads = _naive_gradient(net, at_start, tokens.k[:, :, t : t + 1], target[:, :, t : t + 1])
            lr = tokens.lr[:, :, t, None, None]
            summed = [total + lr * grad for total, grad in zip(summed, grads, strict=True)]
            place_weight = net.place_weights_C[t - first]
            now = [p - place_weight * total for p, total in zip(at_start, summed, strict=True)]
            outputs.append(_answer(net, tokens.q[:, :, t : t + 1], now))
        if first + size <= length:
            keep = net.keep_H[:, None, None]
            deltas = [keep * d - net.place_weights_C[-1] * total for d, total in zip(deltas, summed, strict=True)]
    count = len(net.weights)
    state.delta_weights, state.delta_biases = tuple(deltas[:count]), tuple(deltas[count:])
    state.place = torch.full_like(state.place, length % size)
    return torch.cat(outputs, dim=2), state


def _naive_gradient(net: InnerNetwork, parameters: list[Tensor], k: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Gradient of the inner loss of one frame by each weight and bias, differentiable itself."""
    count = len(net.weights)
    with torch.enable_grad():
        leaves = [p if p.requires_grad else p.detach().requires_grad_() for p in parameters]
        loss = inner_loss(net, apply_network(k, leaves[:count], leaves[count:]), target).sum()
        return torch.autograd.grad(loss, leaves, create_graph=True)


def _answer(net: InnerNetwork, q: Tensor, parameters: list[Tensor]) -> Tensor:
    count = len(net.weights)
    output = apply_network(q, parameters[:count], parameters[count:])
    return q + layer_norm(output, net.norm_weight_HF, net.norm_bias_HF)


def ttt(net: InnerNetwork, tokens: InnerTokens, state: TTTState | None = None) -> tuple[Tensor, TTTState]:
    """The fast form: any number of frames, each row at its own place of a mini-batch.

    The frames are laid on the grid of mini-batches, behind the rows' unfinished ones. The number of mini-batches
    follows from T alone, so nothing is read back from the device. With gradients on, groups of about sqrt(M)
    mini-batches are recomputed in the backward pass: the memory for activations grows with sqrt(T).

    Args:
        state: the memory to continue from, or None for a fresh one. It is not changed.

    Returns:
        z `[B, H, T, F]` and the state behind the last frame.
    """
    batch, _, length, _ = tokens.q.shape
    size = net.mini_batch_size
    count = math.ceil(length / size) if state is None else (length + size - 2) // size + 1
    state = state or init_state(net, batch, tokens.q.dtype)
    target = inner_target(net, tokens.k, tokens.v)
    slots = state.place[:, None] + torch.arange(length, device=state.place.device)  # [B, T] places on the grid
    q, k, target = (_to_grid(x, slots, count * size) for x in (tokens.q, tokens.k, target))
    lr = _to_grid(tokens.lr[..., None], slots, count * size)[..., 0]
    grid = _Grid(q, k, target, lr, frames=state.place + length)
    z, state = _scan(net, grid, state, count)
    z = z.gather(2, slots[:, None, :, None].expand(-1, z.shape[1], -1, z.shape[3]))
    state.place = (state.place + length) % size
    return z, state


class _Grid(NamedTuple):
    """Frames on the grid of mini-batches, `[B, H, M * C, F]`; `frames` `[B]` counts them from the grid's start."""

    q: Tensor
    k: Tensor
    target: Tensor
    lr: Tensor
    frames: Tensor


def _to_grid(x_BHTF: Tensor, slots_BT: Tensor, grid_frames: int) -> Tensor:
    if x_BHTF.shape[2] == grid_frames:  # then every row starts at place 0
        return x_BHTF
    index = slots_BT[:, None, :, None].expand_as(x_BHTF)
    empty = x_BHTF.new_zeros(*x_BHTF.shape[:2], grid_frames, x_BHTF.shape[3])
    return empty.scatter(2, index, x_BHTF)


def _scan(net: InnerNetwork, grid: _Grid, state: TTTState, count: int) -> tuple[Tensor, TTTState]:
    """Runs `count` mini-batches one after the other, in groups that are recomputed for the backward pass."""
    group = max(1, math.isqrt(count))
    outputs = []
    for first in range(0, count, group):
        places = range(first, min(first + group, count))
        if torch.is_grad_enabled() and count > 1:
            # No operation in here draws random numbers: there is no RNG state to preserve.
            z, state = checkpoint(_run_group, net, grid, state, places, use_reentrant=False, preserve_rng_state=False)
        else:
            z, state = _run_group(net, grid, state, places)
        outputs.append(z)
    return torch.cat(outputs, dim=2), state


def _run_group(net: InnerNetwork, grid: _Grid, state: TTTState, places: range) -> tuple[Tensor, TTTState]:
    size = net.mini_batch_size
    outputs = []
    for index in places:
        span = slice(index * size, (index + 1) * size)
        q, k, target, lr = (x[:, :, span] for x in grid[:4])
        part = _Grid(q, k, target, lr, grid.frames - index * size)
        z, state = _run_mini_batch(net, part, state)
        outputs.append(z)
    return torch.cat(outputs, dim=2), state


def _run_mini_batch(net: InnerNetwork, part: _Grid, state: TTTState) -> tuple[Tensor, TTTState]:
    """One mini-batch in the dual form; frames that a row already holds in its rings are taken from there."""
    weights = [w + d for w, d in zip(net.weights, state.delta_weights, strict=True)]
    biases = [b + d for b, d in zip(net.biases, state.delta_biases, strict=True)]
    inputs, grads = _inner_pass(net, weights, biases, part.k, part.target)
    held = state.ring_lr > 0  # [B, H, C]
    inputs = [torch.where(held[..., None], ring, x) for ring, x in zip(state.ring_inputs, inputs, strict=True)]
    grads = [torch.where(held[..., None], ring, g) for ring, g in zip(state.ring_grads, grads, strict=True)]
    lr = torch.where(held, state.ring_lr, part.lr)

    mixing = (net.place_weights_C[:, None] * lr[:, :, None, :]).tril()  # Cm [B, H, C, C]
    z = _output_pass(net, weights, biases, part.q, mixing, inputs, grads)
    return z, _commit(net, part, state, mixing[:, :, -1:], inputs, grads, lr)


def _inner_pass(
    net: InnerNetwork, weights: list[Tensor], biases: list[Tensor], k: Tensor, target: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs X_l and output gradients G_l of every inner layer, for the keys of one mini-batch."""
    inputs, hidden = [k], []
    for layer, weight in enumerate(weights):
        z = inputs[-1] @ weight
        if layer < len(biases):
            z = z + biases[layer]
        hidden.append(z)
        if layer < len(weights) - 1:
            inputs.append(F.gelu(z, approximate="tanh"))
    grads = [_norm_loss_gradient(net, hidden[-1], target)]
    for layer in range(len(weights) - 1, 0, -1):
        grads.insert(0, (grads[0] @ weights[layer].mT) * _gelu_gradient(hidden[layer - 1]))
    return inputs, grads


def _norm_loss_gradient(net: InnerNetwork, output: Tensor, target: Tensor) -> Tensor:
    """Gradient of `inner_loss` by the network output."""
    centred = output - output.mean(-1, keepdim=True)
    inverse_std = (centred.square().mean(-1, keepdim=True) + LN_EPS).rsqrt()
    normed = centred * inverse_std
    weight, bias = net.norm_weight_HF[:, None], net.norm_bias_HF[:, None]
    grad = (normed * weight + bias - target) * weight
    along = (grad * normed).mean(-1, keepdim=True)
    return (grad - grad.mean(-1, keepdim=True) - normed * along) * inverse_std


def _gelu_gradient(x: Tensor) -> Tensor:
    tanh = torch.tanh(_GELU_SCALE * x * (1 + _GELU_CUBIC * x * x))
    return 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * _GELU_SCALE * (1 + 3 * _GELU_CUBIC * x * x)


def _output_pass(
    net: InnerNetwork,
    weights: list[Tensor],
    biases: list[Tensor],
    q: Tensor,
    mixing: Tensor,
    inputs: list[Tensor],
    grads: list[Tensor],
) -> Tensor:
    """Answers to the queries with the weights of each frame's own place, without building those weights."""
    x = q
    for layer, weight in enumerate(weights):
        has_bias = layer < len(biases)
        scores = x @ inputs[layer].mT
        scores = scores + 1 if has_bias else scores
        x = x @ weight - (mixing * scores) @ grads[layer]
        if has_bias:
            x = x + biases[layer]
        if layer < len(weights) - 1:
            x = F.gelu(x, approximate="tanh")
    return q + layer_norm(x, net.norm_weight_HF, net.norm_bias_HF)


def _commit(
    net: InnerNetwork,
    part: _Grid,
    state: TTTState,
    last: Tensor,
    inputs: list[Tensor],
    grads: list[Tensor],
    lr: Tensor,
) -> TTTState:
    """Rows whose mini-batch is full take its step and empty their rings; the others keep it in their rings."""
    full = (part.frames >= net.mini_batch_size)[:, None, None, None]
    keep = net.keep_H[:, None, None]
    steps = [(last.mT * x).mT @ g for x, g in zip(inputs, grads, strict=True)]
    bias_steps = [last @ g for g in grads[: len(net.biases)]]
    return TTTState(
        delta_weights=tuple(
            torch.where(full, keep * d - s, d) for d, s in zip(state.delta_weights, steps, strict=True)
        ),
        delta_biases=tuple(
            torch.where(full, keep * d - s, d) for d, s in zip(state.delta_biases, bias_steps, strict=True)
        ),
        ring_inputs=tuple(x.masked_fill(full, 0) for x in inputs),
        ring_grads=tuple(g.masked_fill(full, 0) for g in grads),
        ring_lr=lr.masked_fill(full[..., 0], 0),
        place=state.place,
    )


def state_tensors(state: TTTState) -> dict[str, Tensor]:
    """The tensors of a state by name, as they are stored in a file."""
    named: dict[str, Tensor] = {}
    for field in fields(state):
        value = getattr(state, field.name)
        if isinstance(value, Tensor):
            named[field.name] = value
        else:
            named.update({f"{field.name}.{layer}": tensor for layer, tensor in enumerate(value)})
    return named
