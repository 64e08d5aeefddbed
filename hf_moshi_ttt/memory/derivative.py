"""A run of whole mini-batches of the inner loop with its derivative written by hand.

Autograd would keep every intermediate of every mini-batch, the weights included. Here the forward pass keeps what was
learned at about sqrt(M) positions; the backward pass recomputes one group of mini-batches at a time and walks it in
reverse. The formulas are those of `dual_form.py`, differentiated line by line.

Legend: M mini-batches, N samples times heads, H heads, C frames per mini-batch, F head width, I and O the input and
output width of an inner layer.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..transformer.first_derivative import first_derivative_only
from .dual_form import (
    Frames,
    KeysPass,
    Layers,
    QueriesPass,
    Rule,
    commit,
    first_hidden,
    gelu_backward,
    keys_pass,
    norm_backward,
    queries_pass,
)

_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


def run_mini_batches(frames: Frames, rule: Rule, start: Layers, delta: Layers) -> tuple[Tensor, Layers]:
    """The normed answers LN(f_res(q)) `[M, N, C, F]` of all mini-batches, and what is learned after the last.

    Args:
        frames: `[M, N, C, ...]`.
        start: `[H, I, O]`, with N a multiple of H.
        delta: `[N, I, O]`, what was learned before.
    """
    count = len(start.weights)
    inputs = (*frames, *rule[:4], *start.weights, *start.biases, *delta.weights, *delta.biases)
    # Inside `forward` gradients are always off, and `ctx.needs_input_grad` is True under `no_grad` too.
    records = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    output, *learned = _MiniBatches.apply(rule.eps, count, records, *inputs)
    return output, Layers.of(learned, count)


class _MiniBatches(torch.autograd.Function):
    """`run_mini_batches` for autograd; tensors come in the order of its `inputs`.

    Every tensor that the backward pass needs goes through `save_for_backward`: activation checkpointing frees those
    alone between the passes.
    """

    @staticmethod
    def forward(ctx: Any, eps: float, count: int, records: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
        frames, rule, start, delta = _unpacked(eps, count, inputs)
        total = len(frames.q)
        group = max(1, math.isqrt(total))
        outputs, checkpoints = torch.empty_like(frames.target), []
        for index in range(total):
            if records and index % group == 0:
                checkpoints += [*delta.weights, *delta.biases]
            outputs[index], delta, _ = _mini_batch(_at(frames, index), rule, start, delta)
        if records:
            ctx.save_for_backward(*inputs, *checkpoints)
            ctx.eps, ctx.count, ctx.group, ctx.num_inputs = eps, count, group, len(inputs)
        return outputs, *delta.weights, *delta.biases

    @staticmethod
    @first_derivative_only("memories that learn in mini-batches", "differentiate memory/naive.py")
    def backward(ctx: Any, grad_output: Tensor, *grad_delta: Tensor) -> tuple[Tensor | None, ...]:
        saved, count, group = ctx.saved_tensors, ctx.count, ctx.group
        frames, rule, start, _ = _unpacked(ctx.eps, count, saved[: ctx.num_inputs])
        checkpoints = saved[ctx.num_inputs :]
        with torch.autocast(grad_output.device.type, enabled=False):
            back = _Backward(frames, rule, start, Layers.of(grad_delta, count))
            for index in reversed(range(math.ceil(len(frames.q) / group))):
                delta = Layers.of(checkpoints[index * len(grad_delta) : (index + 1) * len(grad_delta)], count)
                back.group(range(index * group, min((index + 1) * group, len(frames.q))), delta, grad_output)
            return None, None, None, *back.gradients()


def _unpacked(eps: float, count: int, inputs: Any) -> tuple[Frames, Rule, Layers, Layers]:
    position_weights, retention, norm_weight, norm_bias, *layers = inputs[4:]
    half = len(layers) // 2
    rule = Rule(position_weights, retention, norm_weight, norm_bias, eps)
    return Frames(*inputs[:4]), rule, Layers.of(layers[:half], count), Layers.of(layers[half:], count)


def _at(frames: Frames, index: int) -> Frames:
    return Frames(*(x[index] for x in frames))


class _Tape(NamedTuple):
    """One mini-batch as it was computed."""

    frames: Frames
    layers: Layers
    mixing: Tensor
    keys: KeysPass
    queries: QueriesPass


def _mini_batch(frames: Frames, rule: Rule, start: Layers, delta: Layers) -> tuple[Tensor, Layers, _Tape]:
    """The answers `[N, C, F]` of one mini-batch and what is learned after it."""
    layers = start.plus(delta)
    first_k, first_q = first_hidden(frames.k, frames.q, layers)
    keys = keys_pass(frames.k, first_k, frames.target, rule, layers)
    mixing = (rule.position_weights[:, None] * frames.lr[:, None, :]).tril()
    answers, queries = queries_pass(frames.q, first_q, mixing, rule, layers, keys.inputs, keys.grads)
    delta = commit(mixing[:, -1], rule, delta, keys.inputs, keys.grads)
    return answers, delta, _Tape(frames, layers, mixing, keys, queries)


@dataclass
class _Gradients:
    """Gradients inside one mini-batch: of X_l, G_l, Z_l and biases by layer, and of the mixing.

    `factors` holds for each layer the pairs of `[N, C, I]` and `[N, C, O]` whose products sum to the gradient of W_l.
    """

    inputs: list[Tensor]
    grads: list[Tensor]
    hidden: list[Tensor]
    biases: list[Tensor]
    mixing: Tensor
    factors: list[tuple[list[Tensor], list[Tensor]]]


class _Backward:
    """Walks mini-batches in reverse and gathers the gradients of everything that went in."""

    def __init__(self, frames: Frames, rule: Rule, start: Layers, grad_delta: Layers) -> None:
        self.frames, self.rule, self.start = frames, rule, start
        self.grad_frames = Frames(*(torch.empty_like(x) for x in frames))
        self.grad_delta = Layers(*([x.clone() for x in side] for side in grad_delta))
        self.grad_start = Layers(*([-x for x in side] for side in grad_delta))  # `_carry` says why
        self.grad_mixing_lr = torch.zeros_like(frames.lr[0][:, None] * rule.position_weights[:, None])
        self.grad_retention = None if rule.retention is None else torch.zeros_like(rule.retention)
        self.grad_norm_weight = torch.zeros_like(frames.target[0])
        self.grad_norm_bias = torch.zeros_like(frames.target[0])

    def group(self, positions: range, delta: Layers, grad_output: Tensor) -> None:
        """Recomputes the mini-batches at `positions` from what was learned before the first, then walks back."""
        done = []
        for index in positions:
            before = delta
            _, delta, tape = _mini_batch(_at(self.frames, index), self.rule, self.start, before)
            done.append((index, tape, before))
        for index, tape, before in reversed(done):
            self._walk(index, tape, before, grad_output[index])

    def _walk(self, index: int, tape: _Tape, delta: Layers, grad_answers: Tensor) -> None:
        """Back over one mini-batch, from the gradients of its answers and of what is learned after it."""
        own = _Gradients([], [], [], [], torch.zeros_like(tape.mixing), [])
        self.grad_frames.q[index] = self._queries(tape, grad_answers, own)
        self._commit(tape, delta, own)
        self.grad_frames.target[index] = self._inner_gradients(tape, own)
        self.grad_frames.k[index] = self._keys(tape, own)
        self.grad_frames.lr[index] = (own.mixing.tril() * self.rule.position_weights[:, None]).sum(1)
        self.grad_mixing_lr += own.mixing * tape.frames.lr[:, None]
        for layer, (left, right) in enumerate(own.factors):
            self._carry(0, layer).baddbmm_(torch.cat(left, 1).mT, torch.cat(right, 1))
        for layer, grad in enumerate(own.biases):
            self._carry(1, layer).add_(grad)

    def _carry(self, side: int, layer: int) -> Tensor:
        """The gradient of what was learned (weights or biases: side 0 or 1), carried back over a commit.

        A mini-batch adds its gradient by W = start + delta to it. So the gradients by the start, the sum over all
        mini-batches, are what is there at the end, less what came in, plus what the carries have taken away.
        """
        grad = self.grad_delta[side][layer]
        if self.rule.retention is not None:
            self.grad_start[side][layer].addcmul_(grad, 1 - self.rule.retention)
            grad.mul_(self.rule.retention)
        return grad

    def _queries(self, tape: _Tape, grad_answers: Tensor, own: _Gradients) -> Tensor:
        """Through the answers; returns the gradient of q."""
        keys, queries, weights, biases = tape.keys, tape.queries, tape.layers.weights, tape.layers.biases
        self.grad_norm_weight.addcmul_(grad_answers, queries.norm[0])
        self.grad_norm_bias.add_(grad_answers)
        grad_x = grad_answers * self.rule.norm_weight
        for layer in range(len(weights) - 1, -1, -1):
            is_last, hidden = layer == len(weights) - 1, queries.hidden[layer]
            grad = norm_backward(grad_x, hidden, queries.norm) if is_last else gelu_backward(grad_x, hidden)
            grad_mixed = torch.bmm(grad, keys.grads[layer].mT).neg_()
            grad_scores = grad_mixed * tape.mixing
            own.mixing.addcmul_(grad_mixed, queries.scores[layer])
            own.grads.insert(0, torch.bmm((tape.mixing * queries.scores[layer]).mT, grad).neg_())
            own.inputs.insert(0, torch.bmm(grad_scores.mT, queries.inputs[layer]))
            own.factors.insert(0, ([queries.inputs[layer]], [grad]))
            if layer < len(biases):
                own.biases.insert(0, grad.sum(1, keepdim=True))
            grad_x = torch.bmm(grad, weights[layer].mT).baddbmm_(grad_scores, keys.inputs[layer])
        return grad_x

    def _commit(self, tape: _Tape, delta: Layers, own: _Gradients) -> None:
        """Through the step: adds to the gradients of X_l, G_l, the mixing's last row and the retention."""
        last = tape.mixing[:, -1, :, None]
        for layer, grad in enumerate(self.grad_delta.weights):
            x, g, has_bias = tape.keys.inputs[layer], tape.keys.grads[layer], layer < len(delta.biases)
            along = torch.baddbmm(self.grad_delta.biases[layer], x, grad) if has_bias else torch.bmm(x, grad)
            own.mixing[:, -1].sub_((along * g).sum(-1))
            own.grads[layer].addcmul_(along, last, value=-1)
            own.inputs[layer].addcmul_(torch.bmm(g, grad.mT), last, value=-1)
        if self.grad_retention is not None:
            for side in (0, 1):
                for grad, learned in zip(self.grad_delta[side], delta[side], strict=True):
                    self.grad_retention.add_(_dot(grad, learned))

    def _inner_gradients(self, tape: _Tape, own: _Gradients) -> Tensor:
        """Through the inner gradients G_l down to those of Z_l; returns the gradient of the target."""
        keys = tape.keys
        for layer in range(1, len(own.grads)):
            grad, hidden = own.grads[layer - 1], keys.hidden[layer - 1]
            grad_upstream = gelu_backward(grad, hidden)
            own.hidden.append(_gelu_curvature(hidden).mul_(keys.upstream[layer - 1]).mul_(grad))
            own.grads[layer].baddbmm_(grad_upstream, tape.layers.weights[layer])
            own.factors[layer][0].append(grad_upstream)
            own.factors[layer][1].append(keys.grads[layer])
        grad_hidden, grad_target = self._norm_loss(keys, own.grads[-1])
        own.hidden.append(grad_hidden)
        return grad_target

    def _norm_loss(self, keys: KeysPass, grad: Tensor) -> tuple[Tensor, Tensor]:
        """From the gradient of G_N to those of Z_N and of the target.

        With y the normed Z_N, r its inverse deviation, h = (y norm_weight + norm_bias - target) norm_weight:
        G_N = r (h - mean(h) - y mean(h y)), whose parts depend on Z_N by h, y and r.
        """
        normed, _, inverse_std = keys.norm
        weight, pulled = self.rule.norm_weight, keys.error * self.rule.norm_weight
        grad_pulled = norm_backward(grad, keys.hidden[-1], keys.norm)
        grad_error = grad_pulled * weight
        self.grad_norm_weight.addcmul_(grad_pulled, keys.error).addcmul_(grad_error, normed)
        self.grad_norm_bias.add_(grad_error)
        along, grad_along = ((x * normed).mean(-1, keepdim=True) for x in (pulled, grad))
        grad_normed = grad_error * weight - inverse_std * (grad * along + pulled * grad_along)
        by_std = inverse_std * (grad * keys.grads[-1]).mean(-1, keepdim=True)
        grad_hidden = norm_backward(grad_normed, keys.hidden[-1], keys.norm).addcmul_(normed, by_std, value=-1)
        return grad_hidden, -grad_error

    def _keys(self, tape: _Tape, own: _Gradients) -> Tensor:
        """Through the keys' way up; returns the gradient of k."""
        for layer in range(len(own.factors) - 1, -1, -1):
            grad = own.hidden[layer]
            own.factors[layer][0].append(tape.keys.inputs[layer])
            own.factors[layer][1].append(grad)
            if layer < len(own.biases):
                own.biases[layer].add_(grad.sum(1, keepdim=True))
            own.inputs[layer].baddbmm_(grad, tape.layers.weights[layer].mT)
            if layer:
                own.hidden[layer - 1].add_(gelu_backward(own.inputs[layer], tape.keys.hidden[layer - 1]))
        return own.inputs[0]

    def gradients(self) -> tuple[Tensor | None, ...]:
        """In the order of the inputs of `run_mini_batches`."""
        grad_place = self.grad_mixing_lr.tril().sum((0, 2))
        norm = (x.sum(1, keepdim=True) for x in (self.grad_norm_weight, self.grad_norm_bias))
        start, delta = ((*side.weights, *side.biases) for side in (self.grad_start, self.grad_delta))
        heads = self.start.weights[0].shape[0]
        by_head = ((a + b).unflatten(0, (-1, heads)).sum(0) for a, b in zip(start, delta, strict=True))
        return *self.grad_frames, grad_place, self.grad_retention, *norm, *by_head, *delta


def _gelu_curvature(x: Tensor) -> Tensor:
    """The second derivative of the tanh-GELU."""
    square = x * x
    tanh = torch.tanh(_GELU_SCALE * x * (1 + _GELU_CUBIC * square))
    slope = _GELU_SCALE * (1 + 3 * _GELU_CUBIC * square)
    bend = 3 * _GELU_SCALE * _GELU_CUBIC * square
    return (1 - tanh * tanh) * (slope + bend - x * tanh * slope * slope)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over all but the first axis, `[N, 1, 1]`."""
    return torch.bmm(a.flatten(1)[:, None], b.flatten(1)[:, :, None])
