"""The dual form's parts: inner gradients, answers with each position's own weights, commits; sums built or not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_moshi_ttt.memory.dual_form import Layers, Rule, UnmergedLayers, commit, first_hidden, keys_pass, queries_pass

HEADS, SAMPLES, SIZE, WIDTH, EPS = 2, 3, 4, 8, 1e-6
N = HEADS * SAMPLES


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_layers(depth: int, rows: int, output_bias: bool, seed: int = 0) -> Layers:
    widths = [WIDTH, *[2 * WIDTH] * (depth - 1), WIDTH]
    shapes = list(zip(widths[:-1], widths[1:], strict=True))
    weights = [normal(rows, i, o, seed=seed + 10 * n) / i**0.5 for n, (i, o) in enumerate(shapes)]
    biases = [normal(rows, 1, o, seed=seed + 10 * n + 1) for n, (_, o) in enumerate(shapes)]
    return Layers(weights, biases if output_bias else biases[:-1])


def make_rule(retention: bool = True) -> Rule:
    positions = 1 / torch.arange(1, SIZE + 1, dtype=torch.float64)
    remaining = torch.full((N, 1, 1), 0.9, dtype=torch.float64) if retention else None
    return Rule(positions, remaining, 1 + 0.1 * normal(N, 1, WIDTH, seed=5), 0.1 * normal(N, 1, WIDTH, seed=6), EPS)


def network(x: Tensor, layers: Layers) -> Tensor:
    for index in range(len(layers.weights)):
        x = x @ layers.weights[index]
        x = x + layers.biases[index] if index < len(layers.biases) else x
        x = F.gelu(x, approximate="tanh") if index < len(layers.weights) - 1 else x
    return x


def normed(x: Tensor, rule: Rule) -> Tensor:
    return F.layer_norm(x, (WIDTH,), eps=EPS) * rule.norm_weight + rule.norm_bias


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_inner_gradients_are_those_of_autograd(depth: int, output_bias: bool) -> None:
    """The gradient of W_l is X_l^T G_l, frame by frame."""
    layers, rule = make_layers(depth, N, output_bias), make_rule()
    k, target = normal(N, SIZE, WIDTH, seed=1), normal(N, SIZE, WIDTH, seed=2)
    keys = keys_pass(k, first_hidden(k, k, layers)[0], target, rule, layers)
    for t in range(SIZE):
        leaves = [weight.clone().requires_grad_() for weight in layers.weights]
        out = normed(network(k[:, t : t + 1], Layers(leaves, layers.biases)), rule)
        loss = 0.5 * (out - target[:, t : t + 1]).square().sum()
        for layer, grad in enumerate(torch.autograd.grad(loss, leaves)):
            found = keys.inputs[layer][:, t, :, None] * keys.grads[layer][:, t, None]
            torch.testing.assert_close(found, grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_answers_are_those_of_explicit_weights(depth: int, output_bias: bool) -> None:
    layers, rule = make_layers(depth, N, output_bias), make_rule()
    k, target, q = (normal(N, SIZE, WIDTH, seed=seed) for seed in (1, 2, 3))
    mixing = normal(N, SIZE, SIZE, seed=4).abs().tril()
    first_k, first_q = first_hidden(k, q, layers)
    keys = keys_pass(k, first_k, target, rule, layers)
    answers, _ = queries_pass(q, first_q, mixing, rule, layers, keys.inputs, keys.grads)
    for t in range(SIZE):
        weighed = [mixing[:, t, :, None] * x for x in keys.inputs]
        weights = [w - x.mT @ g for w, x, g in zip(layers.weights, weighed, keys.grads, strict=True)]
        biases = [b - mixing[:, t, None] @ g for b, g in zip(layers.biases, keys.grads, strict=False)]
        expected = normed(network(q[:, t : t + 1], Layers(weights, biases)), rule)
        torch.testing.assert_close(answers[:, t : t + 1], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("retention", [True, False])
def test_commit_takes_the_whole_step_and_leaves_its_argument(retention: bool) -> None:
    delta, rule, last = make_layers(2, N, output_bias=False, seed=7), make_rule(retention), normal(N, SIZE).abs()
    inputs, grads = (
        [normal(N, SIZE, w.shape[1]) for w in delta.weights],
        [normal(N, SIZE, w.shape[2]) for w in delta.weights],
    )
    before = [x.clone() for x in delta.weights]
    learned, factor = commit(last, rule, delta, inputs, grads), 0.9 if retention else 1.0
    for layer, own in enumerate(learned.weights):
        step = torch.einsum("nc,nci,nco->nio", last, inputs[layer], grads[layer])
        torch.testing.assert_close(own, factor * before[layer] - step, rtol=1e-10, atol=1e-10)
        assert torch.equal(delta.weights[layer], before[layer])
    step = torch.einsum("nc,nco->no", last, grads[0])[:, None]
    torch.testing.assert_close(learned.biases[0], factor * delta.biases[0] - step, rtol=1e-10, atol=1e-10)
    assert len(learned.biases) == 1


@pytest.mark.parametrize("samples", [1, SAMPLES])
def test_unmerged_layers_compute_the_same(samples: int) -> None:
    start, delta = make_layers(3, HEADS, output_bias=False), make_layers(3, HEADS * samples, output_bias=False, seed=7)
    merged, unmerged = start.plus(delta), UnmergedLayers(start, delta)
    for layer, weight in enumerate(merged.weights):
        x, grad = normal(HEADS * samples, 2, weight.shape[1]), normal(HEADS * samples, 2, weight.shape[2])
        torch.testing.assert_close(unmerged.linear(layer, x), merged.linear(layer, x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            unmerged.pulled_back(layer, grad), merged.pulled_back(layer, grad), rtol=1e-12, atol=1e-12
        )
