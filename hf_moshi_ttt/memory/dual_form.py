"""The inner loop's mini-batch in the dual form: what keys cause, what queries are answered, what is committed.

With X_l the inputs and G_l the output gradients of inner layer l for a mini-batch's keys (X_1 = k), and
`mixing[t, s] = c_t lr_s` for s <= t, else 0 (docs/memory.md, equations 21 to 23; Sun et al. 2024, section 2.5):

    keys      Z_l = X_l W_l + b_l;  X_{l+1} = gelu(Z_l);  G_N = d loss / d Z_N;  G_{l-1} = (G_l W_l^T) gelu'(Z_{l-1})
    queries   x_1 = q;  z_l = x_l W_l + b_l - (mixing * (x_l X_l^T + 1)) G_l;  x_{l+1} = gelu(z_l)
    commit    delta_l <- retention * delta_l - (mixing[last] * X_l)^T G_l      with W_l = start_l + delta_l

Every function is plain differentiable torch; `derivative.py` has the derivative of many mini-batches by hand.

Legend: N samples times heads, H heads, R frames at once, C frames per mini-batch, F head width, I and O the input and
output width of an inner layer. `+ 1` and biases are absent where a layer has no bias.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


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
        position_weights: `[C]`.
        retention: `[N, 1, 1]`, or None to keep all.
        norm_weight, norm_bias: `[N, 1, F]`.
        eps: of the layer norm.
    """

    position_weights: Tensor
    retention: Tensor | None
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
    """`start.plus(delta)` without building the sums: for few frames, building them is what would cost."""

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
    """What the queries of a mini-batch cause, by layer: x_l, z_l and the scores x_l X_l^T + 1.

    `norm` is the normed output with its mean and inverse deviation.
    """

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
    norm = norm_of(hidden[-1], rule.eps)
    error = torch.addcmul(rule.norm_bias, norm[0], rule.norm_weight) - target
    grads: list[Tensor] = [norm_backward(error * rule.norm_weight, hidden[-1], norm)]
    upstream: list[Tensor] = []
    for index in range(len(layers.weights) - 1, 0, -1):
        upstream.insert(0, layers.pulled_back(index, grads[0]))
        grads.insert(0, gelu_backward(upstream[0], hidden[index - 1]))
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
    """Answers LN(f_res(q)) `[N, R, F]` to queries `[N, R, I]`, each with the weights of its own position.

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
    norm = norm_of(x, rule.eps)
    return torch.addcmul(rule.norm_bias, norm[0], rule.norm_weight), QueriesPass(xs, hidden, scores, norm)


def commit(last: Tensor, rule: Rule, delta: Layers, inputs: list[Tensor], grads: list[Tensor]) -> Layers:
    """What is learned after a full mini-batch whose steps weigh `last` `[N, C]`."""
    remaining = Layers(*([retained(d, rule) for d in side] for side in delta))
    steps = [(x * last[:, :, None]).mT for x in inputs]
    return Layers(
        [d.baddbmm_(x, g, alpha=-1) for d, x, g in zip(remaining.weights, steps, grads, strict=True)],
        [d.baddbmm_(last[:, None], g, alpha=-1) for d, g in zip(remaining.biases, grads, strict=False)],
    )


def retained(x: Tensor, rule: Rule) -> Tensor:
    """A new tensor: what the retention leaves."""
    return x.clone() if rule.retention is None else x * rule.retention


def norm_of(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Layer norm without affine: the normed values, their mean and inverse deviation."""
    return torch.native_layer_norm(x, x.shape[-1:], None, None, eps)


def norm_backward(grad: Tensor, x: Tensor, norm: tuple[Tensor, ...]) -> Tensor:
    """The gradient by x of `norm_of(x)[0]`, given that of its normed values."""
    mask = [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(grad, x, x.shape[-1:], norm[1], norm[2], None, None, mask)[0]


def gelu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by x of the tanh-GELU."""
    return torch.ops.aten.gelu_backward(grad, x, approximate="tanh")
