"""A run of whole mini-batches of the inner loop in the dual form, with its derivative written by hand.

Autograd would keep every intermediate of every mini-batch, the weights included. Here the forward pass keeps the
learned differences at about sqrt(M) places; the backward pass recomputes one group of mini-batches at a time and walks
it in reverse. With X_l the inputs and G_l the output gradients of inner layer l for a mini-batch's keys (X_1 = k), and
`mixing[t, s] = c_t lr_s` for s <= t, else 0 (DESIGN.md, section 3):

    keys      Z_l = X_l W_l + b_l;  X_{l+1} = gelu(Z_l);  G_N = d loss / d Z_N;  G_{l-1} = (G_l W_l^T) gelu'(Z_{l-1})
    queries   x_1 = q;  z_l = x_l W_l + b_l - (mixing * (x_l X_l^T + 1)) G_l;  x_{l+1} = gelu(z_l)
    commit    delta_l <- keep * delta_l - (mixing[last] * X_l)^T G_l      with W_l = start_l + delta_l

Legend: M mini-batches, N samples times heads, C frames per mini-batch, F head width, I and O the input and output width
of an inner layer. `+ 1` and biases are absent where a layer has no bias.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


class Frames(NamedTuple):
    """Frames of one or more mini-batches: q, k `[..., I]`, target `[..., F]` and learning rates `[...]`.

    In front stand the axes `[M, N, C]` of M mini-batches, or `[N, T]` of any number of frames.
    """

    q: Tensor
    k: Tensor
    target: Tensor
    lr: Tensor


class Rule(NamedTuple):
    """What is the same for all mini-batches.

    Args:
        place_weights: `[C]`.
        keep: `[N, 1, 1]`, or None to keep all.
        norm_weight, norm_bias: `[N, 1, F]`.
        eps: of the layer norm.
    """

    place_weights: Tensor
    keep: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    eps: float


class Layers(NamedTuple):
    """Weights `[N, I, O]` and biases `[N, 1, O]` of every inner layer, or what was learned on top of them.

    The last layer may lack a bias. Start weights may be `[H, I, O]` with N a multiple of H.
    """

    weights: list[Tensor]
    biases: list[Tensor]

    @classmethod
    def of(cls, flat: Any, count: int) -> "Layers":
        """From `count` weights followed by the biases."""
        return cls(list(flat[:count]), list(flat[count:]))

    def plus(self, delta: "Layers") -> "Layers":
        """The weights in use: these start weights and what was learned."""
        return Layers(
            [_plus(w, d) for w, d in zip(self.weights, delta.weights, strict=True)],
            [_plus(b, d) for b, d in zip(self.biases, delta.biases, strict=True)],
        )

    def linear(self, index: int, x: Tensor) -> Tensor:
        """Layer `index` of `x` `[N, R, I]`: a new tensor `[N, R, O]`."""
        weight, has_bias = self.weights[index], index < len(self.biases)
        return torch.baddbmm(self.biases[index], x, weight) if has_bias else torch.bmm(x, weight)

    def pulled_back(self, index: int, grad: Tensor) -> Tensor:
        """`grad W^T`, `[N, R, O]` to `[N, R, I]`."""
        return torch.bmm(grad, self.weights[index].mT)


class UnmergedLayers:
    """`start.plus(delta)` without building the sums: for few frames, which read weights once and do not pay for more."""

    def __init__(self, start: Layers, delta: Layers) -> None:
        self.start, self.delta = start, delta
        self.weights = delta.weights
        self.biases = start._replace(weights=[]).plus(delta._replace(weights=[])).biases

    def linear(self, index: int, x: Tensor) -> Tensor:
        """As `Layers.linear`."""
        y = _shared_product(x, self.start.weights[index]).baddbmm_(x, self.delta.weights[index])
        return y.add_(self.biases[index]) if index < len(self.biases) else y

    def pulled_back(self, index: int, grad: Tensor) -> Tensor:
        """As `Layers.pulled_back`."""
        return _shared_product(grad, self.start.weights[index].mT).baddbmm_(grad, self.delta.weights[index].mT)


def _plus(start: Tensor, delta: Tensor) -> Tensor:
    return (start + delta.unflatten(0, (-1, start.shape[0]))).flatten(0, 1)


def _shared_product(x: Tensor, weight: Tensor) -> Tensor:
    """`x` `[B * H, R, I]` times `weight` `[H, I, O]`, which all samples share."""
    heads, rows = weight.shape[0], x.shape[1]
    if x.shape[0] == heads:
        return torch.bmm(x, weight)
    by_head = x.unflatten(0, (-1, heads)).transpose(0, 1).flatten(1, 2)  # [H, B * R, I]
    return torch.bmm(by_head, weight).unflatten(1, (-1, rows)).transpose(0, 1).flatten(0, 1)


def run_mini_batches(frames: Frames, rule: Rule, start: Layers, delta: Layers) -> tuple[Tensor, Layers]:
    """The normed answers LN(f_res(q)) `[M, N, C, F]` of all mini-batches, and what is learned behind the last."""
    count = len(start.weights)
    inputs = (*frames, *rule[:4], *start.weights, *start.biases, *delta.weights, *delta.biases)
    output, *learned = _MiniBatches.apply(rule.eps, count, *inputs)
    return output, Layers.of(learned, count)


class _MiniBatches(torch.autograd.Function):
    """`run_mini_batches` for autograd; tensors come in the order of its `inputs`."""

    @staticmethod
    def forward(ctx: Any, eps: float, count: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        frames, rule, start, delta = _unpacked(eps, count, inputs)
        total = len(frames.q)
        group = max(1, math.isqrt(total))
        needs_grad = any(ctx.needs_input_grad)
        outputs, checkpoints = torch.empty_like(frames.target), []
        for index in range(total):
            if needs_grad and index % group == 0:
                checkpoints.append(delta)
            outputs[index], delta, _ = _mini_batch(_at(frames, index), rule, start, delta)
        if needs_grad:
            ctx.save_for_backward(*inputs)
            ctx.eps, ctx.count, ctx.group, ctx.checkpoints = eps, count, group, checkpoints
        return outputs, *delta.weights, *delta.biases

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *grad_delta: Tensor) -> tuple[Tensor | None, ...]:
        frames, rule, start, _ = _unpacked(ctx.eps, ctx.count, ctx.saved_tensors)
        with torch.autocast(grad_output.device.type, enabled=False):
            back = _Backward(frames, rule, start, Layers.of(grad_delta, ctx.count))
            for first, delta in reversed(list(zip(range(0, len(frames.q), ctx.group), ctx.checkpoints, strict=True))):
                back.group(range(first, min(first + ctx.group, len(frames.q))), delta, grad_output)
            return None, None, *back.gradients()


def _unpacked(eps: float, count: int, inputs: Any) -> tuple[Frames, Rule, Layers, Layers]:
    layers = inputs[8:]
    half = len(layers) // 2
    return Frames(*inputs[:4]), Rule(*inputs[4:8], eps), Layers.of(layers[:half], count), Layers.of(layers[half:], count)


def _at(frames: Frames, index: int) -> Frames:
    return Frames(*(x[index] for x in frames))


@dataclass
class KeysPass:
    """What the keys of a mini-batch cause, by layer: X_l, Z_l, G_l W_l^T (from the second layer on) and G_l.

    `norm` is the normed output with its mean and inverse deviation, `error` what it lacks to the target.
    """

    inputs: list[Tensor]
    hidden: list[Tensor]
    upstream: list[Tensor]
    grads: list[Tensor]
    norm: tuple[Tensor, ...]
    error: Tensor


@dataclass
class QueriesPass:
    """What the queries of a mini-batch cause, by layer: x_l, z_l and the scores x_l X_l^T + 1; and the normed output."""

    inputs: list[Tensor]
    hidden: list[Tensor]
    scores: list[Tensor]
    norm: tuple[Tensor, ...]


def first_hidden(k: Tensor, q: Tensor, layers: Layers | UnmergedLayers) -> tuple[Tensor, Tensor]:
    """k W_1 + b_1 and q W_1 + b_1 `[N, R, O]`, the weights being read once."""
    both = layers.linear(0, torch.cat([k, q], dim=1))
    return both[:, : k.shape[1]], both[:, k.shape[1] :]


def keys_pass(k: Tensor, first: Tensor, target: Tensor, rule: Rule, layers: Layers | UnmergedLayers) -> KeysPass:
    """Forward and backward of the inner network at the keys `[N, R, I]`, any number R of them.

    Args:
        first: the keys' part of `first_hidden`.
    """
    inputs, hidden = [k], [first]
    for index in range(1, len(layers.weights)):
        inputs.append(F.gelu(hidden[-1], approximate="tanh"))
        hidden.append(layers.linear(index, inputs[-1]))
    norm = _norm(hidden[-1], rule.eps)
    error = torch.addcmul(rule.norm_bias, norm[0], rule.norm_weight) - target
    grads, upstream = [_norm_backward(error * rule.norm_weight, hidden[-1], norm)], []
    for index in range(len(layers.weights) - 1, 0, -1):
        upstream.insert(0, layers.pulled_back(index, grads[0]))
        grads.insert(0, _gelu_backward(upstream[0], hidden[index - 1]))
    return KeysPass(inputs, hidden, upstream, grads, norm, error)


def queries_pass(
    q: Tensor,
    first: Tensor,
    mixing: Tensor,
    rule: Rule,
    layers: Layers | UnmergedLayers,
    inputs: list[Tensor],
    grads: list[Tensor],
) -> tuple[Tensor, QueriesPass]:
    """Answers LN(f_res(q)) `[N, R, F]` to queries `[N, R, I]`, each with the weights of its own place.

    Args:
        first: the queries' part of `first_hidden`.
        mixing: `[N, R, C]`, how much of each frame's step a query's weights have taken.
        inputs, grads: X_l `[N, C, I]` and G_l `[N, C, O]`.
    """
    x, xs, hidden, scores = q, [], [], []
    for index in range(len(layers.weights)):
        score = torch.bmm(x, inputs[index].mT)
        scores.append(score.add_(1) if index < len(layers.biases) else score)
        plain = layers.linear(index, x) if index else first
        z = torch.baddbmm(plain, mixing * scores[-1], grads[index], alpha=-1)
        xs.append(x)
        hidden.append(z)
        x = F.gelu(z, approximate="tanh") if index < len(layers.weights) - 1 else z
    norm = _norm(x, rule.eps)
    return torch.addcmul(rule.norm_bias, norm[0], rule.norm_weight), QueriesPass(xs, hidden, scores, norm)


def commit(last: Tensor, rule: Rule, delta: Layers, inputs: list[Tensor], grads: list[Tensor]) -> Layers:
    """What is learned behind a full mini-batch whose steps weigh `last` `[N, C]`."""
    kept = Layers(*([_kept(d, rule) for d in side] for side in delta))
    steps = [(x * last[:, :, None]).mT for x in inputs]
    return Layers(
        [d.baddbmm_(x, g, alpha=-1) for d, x, g in zip(kept.weights, steps, grads, strict=True)],
        [d.baddbmm_(last[:, None], g, alpha=-1) for d, g in zip(kept.biases, grads, strict=False)],
    )


def _kept(x: Tensor, rule: Rule) -> Tensor:
    """A new tensor: what the keep factor leaves."""
    return x.clone() if rule.keep is None else x * rule.keep


@dataclass
class _Tape:
    """One mini-batch as it was computed."""

    layers: Layers
    mixing: Tensor
    keys: KeysPass
    queries: QueriesPass


def _mini_batch(frames: Frames, rule: Rule, start: Layers, delta: Layers) -> tuple[Tensor, Layers, _Tape]:
    """The answers `[N, C, F]` of one mini-batch and what is learned behind it."""
    layers = start.plus(delta)
    first_k, first_q = first_hidden(frames.k, frames.q, layers)
    keys = keys_pass(frames.k, first_k, frames.target, rule, layers)
    mixing = (rule.place_weights[:, None] * frames.lr[:, None, :]).tril()
    answers, queries = queries_pass(frames.q, first_q, mixing, rule, layers, keys.inputs, keys.grads)
    delta = commit(mixing[:, -1], rule, delta, keys.inputs, keys.grads)
    return answers, delta, _Tape(layers, mixing, keys, queries)


class _Backward:
    """Walks mini-batches in reverse and gathers the gradients of everything that went in."""

    def __init__(self, frames: Frames, rule: Rule, start: Layers, grad_delta: Layers) -> None:
        self.frames, self.rule, self.start = frames, rule, start
        self.grad_frames = Frames(*(torch.empty_like(x) for x in frames))
        self.grad_delta = Layers(*([x.clone() for x in side] for side in grad_delta))
        self.grad_start = Layers(*([-x for x in side] for side in grad_delta))  # `_carry` says why
        self.grad_mixing_lr = torch.zeros_like(frames.lr[0][:, None] * rule.place_weights[:, None])
        self.grad_keep = None if rule.keep is None else torch.zeros_like(rule.keep)
        self.grad_norm_weight = torch.zeros_like(frames.target[0])
        self.grad_norm_bias = torch.zeros_like(frames.target[0])

    def group(self, places: range, delta: Layers, grad_output: Tensor) -> None:
        """Recomputes the mini-batches at `places` from what was learned before the first, then walks back."""
        done = []
        for index in places:
            before = delta
            _, delta, tape = _mini_batch(_at(self.frames, index), self.rule, self.start, before)
            done.append((index, tape, before))
        for index, tape, before in reversed(done):
            self._mini_batch(index, tape, before, grad_output[index])

    def _mini_batch(self, index: int, tape: _Tape, delta: Layers, grad_answers: Tensor) -> None:
        frames = _at(self.frames, index)
        grad_inputs, grad_grads, grad_mixing, pairs, grad_biases = self._queries(index, tape, grad_answers)
        self._commit(tape, delta, grad_inputs, grad_grads, grad_mixing)
        grad_hidden = self._keys_gradient(index, tape, grad_grads, pairs)
        self._keys(index, tape, grad_inputs, grad_hidden, pairs, grad_biases)
        self.grad_frames.lr[index] = (grad_mixing.tril() * self.rule.place_weights[:, None]).sum(1)
        self.grad_mixing_lr += grad_mixing * frames.lr[:, None]
        for layer, (left, right) in enumerate(pairs):
            self._carry(layer, 0).baddbmm_(torch.cat(left, 1).mT, torch.cat(right, 1))
        for layer, grad in enumerate(grad_biases[: len(delta.biases)]):
            self._carry(layer, 1).add_(grad)

    def _carry(self, layer: int, side: int) -> Tensor:
        """The gradient of what was learned, carried back over a commit.

        A mini-batch adds its gradient by W = start + delta to it. So the gradients by the start, the sum over all
        mini-batches, are what is there at the end, less what came in, plus what the carries have taken away.
        """
        grad = self.grad_delta[side][layer]
        if self.rule.keep is not None:
            self.grad_start[side][layer].addcmul_(grad, 1 - self.rule.keep)
            grad.mul_(self.rule.keep)
        return grad

    def _queries(self, index: int, tape: _Tape, grad_answers: Tensor) -> tuple[Any, ...]:
        """Through the answers: gradients of X_l, G_l and the mixing, and the pairs whose products are those of W_l."""
        weights, has_bias = tape.layers.weights, len(tape.layers.biases)
        self.grad_norm_weight.addcmul_(grad_answers, tape.queries.norm[0])
        self.grad_norm_bias.add_(grad_answers)
        grad = _norm_backward(grad_answers * self.rule.norm_weight, tape.queries.hidden[-1], tape.queries.norm)
        grad_mixing = torch.zeros_like(tape.mixing)
        grad_inputs, grad_grads, pairs, grad_biases = [], [], [], []
        for layer in range(len(weights) - 1, -1, -1):
            grad_mixed = torch.bmm(grad, tape.keys.grads[layer].mT).neg_()
            grad_grads.insert(0, torch.bmm((tape.mixing * tape.queries.scores[layer]).mT, grad).neg_())
            grad_mixing.addcmul_(grad_mixed, tape.queries.scores[layer])
            grad_scores = grad_mixed * tape.mixing
            grad_inputs.insert(0, torch.bmm(grad_scores.mT, tape.queries.inputs[layer]))
            pairs.insert(0, ([tape.queries.inputs[layer]], [grad]))
            grad_biases.insert(0, grad.sum(1, keepdim=True) if layer < has_bias else None)
            grad_x = torch.bmm(grad, weights[layer].mT).baddbmm_(grad_scores, tape.keys.inputs[layer])
            if layer:
                grad = _gelu_backward(grad_x, tape.queries.hidden[layer - 1])
        self.grad_frames.q[index] = grad_x
        return grad_inputs, grad_grads, grad_mixing, pairs, grad_biases

    def _commit(
        self, tape: _Tape, delta: Layers, grad_inputs: list[Tensor], grad_grads: list[Tensor], grad_mixing: Tensor
    ) -> None:
        """Through the step: adds to the gradients of X_l, G_l and the mixing's last row."""
        last = tape.mixing[:, -1, :, None]
        for layer, grad in enumerate(self.grad_delta.weights):
            x, g = tape.keys.inputs[layer], tape.keys.grads[layer]
            has_bias = layer < len(delta.biases)
            along = torch.baddbmm(self.grad_delta.biases[layer], x, grad) if has_bias else torch.bmm(x, grad)
            grad_mixing[:, -1].sub_((along * g).sum(-1))
            grad_grads[layer].addcmul_(along, last, value=-1)
            grad_inputs[layer].addcmul_(torch.bmm(g, grad.mT), last, value=-1)
            if self.grad_keep is not None:
                self.grad_keep.add_(_dot(grad, delta.weights[layer]))
                if has_bias:
                    self.grad_keep.add_(_dot(self.grad_delta.biases[layer], delta.biases[layer]))

    def _keys_gradient(self, index: int, tape: _Tape, grad_grads: list[Tensor], pairs: list[Any]) -> list[Tensor]:
        """Through the inner gradients G_l: gradients of the keys' hidden Z_l."""
        rule, grad_hidden = self.rule, []
        for layer in range(1, len(pairs)):
            grad, hidden = grad_grads[layer - 1], tape.keys.hidden[layer - 1]
            grad_upstream = _gelu_backward(grad, hidden)
            grad_hidden.append(_gelu_curvature(hidden).mul_(tape.keys.upstream[layer - 1]).mul_(grad))
            grad_grads[layer].baddbmm_(grad_upstream, tape.layers.weights[layer])
            pairs[layer][0].append(grad_upstream)
            pairs[layer][1].append(tape.keys.grads[layer])
        normed, _, inverse_std = tape.keys.norm
        grad, pulled = grad_grads[-1], tape.keys.error * rule.norm_weight
        grad_pulled = _norm_backward(grad, tape.keys.hidden[-1], tape.keys.norm)
        grad_error = grad_pulled * rule.norm_weight
        self.grad_norm_weight.addcmul_(grad_pulled, tape.keys.error).addcmul_(grad_error, normed)
        self.grad_norm_bias.add_(grad_error)
        torch.neg(grad_error, out=self.grad_frames.target[index])
        along = (pulled * normed).mean(-1, keepdim=True)
        along_grad = (grad * normed).mean(-1, keepdim=True)
        grad_normed = grad_error * rule.norm_weight - inverse_std * (grad * along + pulled * along_grad)
        scaled = inverse_std * (grad * tape.keys.grads[-1]).mean(-1, keepdim=True)
        grad_hidden.append(_norm_backward(grad_normed, tape.keys.hidden[-1], tape.keys.norm).addcmul_(normed, scaled, value=-1))
        return grad_hidden

    def _keys(
        self,
        index: int,
        tape: _Tape,
        grad_inputs: list[Tensor],
        grad_hidden: list[Tensor],
        pairs: list[Any],
        grad_biases: list[Tensor | None],
    ) -> None:
        """Through the keys' way up."""
        for layer in range(len(pairs) - 1, -1, -1):
            grad = grad_hidden[layer]
            pairs[layer][0].append(tape.keys.inputs[layer])
            pairs[layer][1].append(grad)
            bias = grad_biases[layer]
            if bias is not None:
                bias.add_(grad.sum(1, keepdim=True))
            grad_x = grad_inputs[layer].baddbmm_(grad, tape.layers.weights[layer].mT)
            if layer:
                grad_hidden[layer - 1].add_(_gelu_backward(grad_x, tape.keys.hidden[layer - 1]))
        self.grad_frames.k[index] = grad_x

    def gradients(self) -> tuple[Tensor | None, ...]:
        """In the order of the inputs of `run_mini_batches`."""
        grad_place = self.grad_mixing_lr.tril().sum((0, 2))
        grad_weight, grad_bias = (x.sum(1, keepdim=True) for x in (self.grad_norm_weight, self.grad_norm_bias))
        start, delta = ((*side.weights, *side.biases) for side in (self.grad_start, self.grad_delta))
        heads = self.start.weights[0].shape[0]
        start = ((a + b).unflatten(0, (-1, heads)).sum(0) for a, b in zip(start, delta, strict=True))
        return *self.grad_frames, grad_place, self.grad_keep, grad_weight, grad_bias, *start, *delta


def _norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm without affine: the normed values, their mean and inverse deviation."""
    return torch.native_layer_norm(x, x.shape[-1:], None, None, eps)


def _norm_backward(grad: Tensor, x: Tensor, norm: tuple[Tensor, ...]) -> Tensor:
    mask = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(grad, x, x.shape[-1:], norm[1], norm[2], None, None, mask)[0]


def _gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")


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
