"""The derivative written by hand equals autograd's at any depth and group size, and memory is kept through time."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_moshi_ttt.memory import derivative as ttt_derivative
from hf_moshi_ttt.memory.derivative import run_mini_batches
from hf_moshi_ttt.memory.dual_form import Frames, Layers, Rule, commit, first_hidden, keys_pass, queries_pass

from ..fixtures.live_storages import LiveStorages
from .test_dual_form import HEADS, SIZE, WIDTH, N, make_layers, make_rule, normal


def by_autograd(frames: Frames, rule: Rule, start: Layers, delta: Layers) -> tuple[Tensor, Layers]:
    """The same mini-batches, every operation recorded."""
    answers = []
    for index in range(len(frames.q)):
        q, k, target, lr = (x[index] for x in frames)
        layers = start.plus(delta)
        first_k, first_q = first_hidden(k, q, layers)
        keys = keys_pass(k, first_k, target, rule, layers)
        mixing = (rule.position_weights[:, None] * lr[:, None]).tril()
        answers.append(queries_pass(q, first_q, mixing, rule, layers, keys.inputs, keys.grads)[0])
        delta = commit(mixing[:, -1], rule, delta, keys.inputs, keys.grads)
    return torch.stack(answers), delta


def make_arguments(total: int, depth: int, output_bias: bool, retention: bool) -> tuple[Frames, Rule, Layers, Layers]:
    q, k, target = (normal(total, N, SIZE, WIDTH, seed=seed) for seed in (1, 2, 3))
    frames = Frames(q, k, target, normal(total, N, SIZE, seed=4).abs() / WIDTH)
    delta = make_layers(depth, N, output_bias, seed=50)
    small = Layers(*([0.1 * x for x in side] for side in delta))
    return frames, make_rule(retention), make_layers(depth, HEADS, output_bias), small


def leaves_of(arguments: Any) -> list[Tensor]:
    frames, rule, start, delta = arguments
    tensors = [*frames, *rule[:4], *start.weights, *start.biases, *delta.weights, *delta.biases]
    return [x.requires_grad_() for x in tensors if x is not None]


@pytest.mark.parametrize("total", [1, 2, 5, 10])
@pytest.mark.parametrize("retention", [True, False])
@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_outputs_and_all_gradients_equal_autograd(depth: int, output_bias: bool, retention: bool, total: int) -> None:
    arguments = make_arguments(total, depth, output_bias, retention)
    leaves, found = leaves_of(arguments), []
    for form in (run_mini_batches, by_autograd):
        answers, learned = form(*arguments)
        seen = [answers, *learned.weights, *learned.biases]
        value = sum((x * normal(*x.shape, seed=9)).sum() for x in seen)
        found.append([*seen, *torch.autograd.grad(value, leaves)])
    for by_hand, recorded in zip(*found, strict=True):
        torch.testing.assert_close(by_hand, recorded, rtol=1e-9, atol=1e-9)


def test_gradients_of_a_part_of_the_outputs() -> None:
    """What was learned may go unused, or be all that is used."""
    arguments = make_arguments(3, 2, True, True)
    leaves = leaves_of(arguments)
    for choose in (lambda answers, _: answers.sum(), lambda _, learned: learned.weights[0].sum()):
        by_hand, recorded = (
            torch.autograd.grad(choose(*form(*arguments)), leaves, allow_unused=True)
            for form in (run_mini_batches, by_autograd)
        )
        for a, b in zip(by_hand, recorded, strict=True):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-9, atol=1e-9)


def test_a_second_derivative_is_refused() -> None:
    arguments = make_arguments(2, 1, True, False)
    leaves = leaves_of(arguments)
    with pytest.raises(RuntimeError, match="which memories that learn in mini-batches do not have"):
        torch.autograd.grad(run_mini_batches(*arguments)[0].square().sum(), leaves[0], create_graph=True)


@pytest.mark.parametrize("total", [16, 64])
def test_what_was_learned_is_kept_at_sqrt_of_the_mini_batches(total: int) -> None:
    """Between the passes live the outputs and sqrt(M) copies of what was learned, and nothing else."""
    arguments = make_arguments(total, 2, True, True)
    leaves_of(arguments)
    with LiveStorages() as live:
        answers, learned = run_mini_batches(*arguments)
    copy = sum(x.nbytes for side in learned for x in side)
    assert copy * total**0.5 <= live.num_bytes - answers.nbytes <= copy * (total**0.5 + 1)


@pytest.mark.parametrize("total", [16, 64])
def test_activation_checkpointing_frees_everything_but_the_outputs(total: int) -> None:
    arguments = make_arguments(total, 2, True, True)
    leaves, found = leaves_of(arguments), []
    with LiveStorages() as live:
        answers, learned = checkpoint(run_mini_batches, *arguments, use_reentrant=False, preserve_rng_state=False)
    assert live.num_bytes - answers.nbytes < 1.2 * sum(x.nbytes for side in learned for x in side)
    for value in (answers.sum(), run_mini_batches(*arguments)[0].sum()):
        found.append(torch.autograd.grad(value, leaves))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("total", [16, 64])
def test_inference_holds_no_more_than_one_mini_batch_at_any_time(total: int) -> None:
    """Also where parameters require gradients: what is kept at the most grows with the outputs alone."""
    arguments, peaks = make_arguments(total, 2, True, True), []
    leaves = leaves_of(arguments)
    for requires_grad in (True, False):
        for leaf in leaves:
            leaf.requires_grad_(requires_grad)
        with torch.no_grad(), LiveStorages() as live:
            run_mini_batches(*arguments)
        peaks.append(live.peak_bytes)
    assert peaks[0] == peaks[1]


def test_nothing_is_kept_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = make_arguments(9, 2, True, True)
    with torch.no_grad():
        answers, _ = run_mini_batches(*arguments)
    assert answers.grad_fn is None
    calls = []
    original = ttt_derivative._mini_batch
    monkeypatch.setattr(ttt_derivative, "_mini_batch", lambda *a: calls.append(1) or original(*a))
    leaves_of(arguments)
    answers, _ = run_mini_batches(*arguments)
    assert len(calls) == 9
    answers.sum().backward()
    assert len(calls) == 18  # each mini-batch is computed once more for the backward pass
