"""A walk in segments equals the step on everything, with gradients, and keeps nothing of a step's inside."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_moshi_ttt.memory import recomputation
from hf_moshi_ttt.memory.recomputation import Tensors, walk


def step(frames: Tensors, state: Tensors, parameters: Tensors) -> tuple[Tensor, Tensors]:
    """A running sum of products, and a count."""
    (x, y), (total, count), (weight, _) = frames, state, parameters
    sums = total[:, :, None] + (x * y * weight).cumsum(2)
    return sums.tanh(), (sums[:, :, -1].clone(), count + x.shape[2])


def make_case() -> tuple[Tensors, Tensors, Tensors]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 3, 23, 4, generator=generator).double()
    state = (torch.randn(2, 3, 4, generator=generator).double(), torch.tensor([1, 2]))
    return (x, y), state, (torch.randn(4, generator=generator).double(), torch.ones(2).double())


@pytest.mark.parametrize("segment_frames", [1, 5, 23, 100])
def test_segments_equal_the_whole_with_gradients(segment_frames: int) -> None:
    frames, (total, count), parameters = make_case()
    leaves = [x.requires_grad_() for x in (*frames, total, *parameters)]
    found = []
    for form in (step, lambda *case: walk(step, *case, segment_frames)):
        output, (after, counted) = form(frames, (total, count), parameters)
        assert counted.tolist() == [24, 25] and not counted.requires_grad
        grads = torch.autograd.grad(output.sum() + after.sin().sum(), leaves, allow_unused=True, materialize_grads=True)
        found.append([output, after, *grads])
    for own, truth in zip(*found, strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-12, atol=1e-12)


def test_only_what_needs_a_gradient_gets_one() -> None:
    frames, state, parameters = make_case()
    frames[0].requires_grad_()
    output, _ = walk(step, frames, state, parameters, 5)
    output.sum().backward()
    assert frames[0].grad is not None and frames[1].grad is None and parameters[0].grad is None


@pytest.mark.parametrize("grad", [True, False])
def test_the_inside_of_a_step_is_freed(grad: bool) -> None:
    inside: list[weakref.ref] = []

    def watched(frames: Tensors, state: Tensors, parameters: Tensors) -> tuple[Tensor, Tensors]:
        product = frames[0] * frames[1]
        inside.append(weakref.ref(product))
        return product.exp(), state and (state[0].clone(), state[1].clone())

    frames, state, parameters = make_case()
    frames[0].requires_grad_()
    with torch.set_grad_enabled(grad):
        output, _ = walk(watched, frames, state, parameters, 5)
    assert output.requires_grad == grad and len(inside) == 5
    assert all(reference() is None for reference in inside)


@pytest.mark.parametrize(("segment_frames", "segments", "times"), [(23, 1, 2), (5, 5, 3)])
@pytest.mark.parametrize("is_checkpointed", [True, False])
def test_a_checkpointed_segment_is_not_computed_a_third_time(
    monkeypatch: pytest.MonkeyPatch, is_checkpointed: bool, segment_frames: int, segments: int, times: int
) -> None:
    """Several segments are, one by one, so that their insides are not kept together."""
    monkeypatch.setattr(recomputation, "counts_kernels", lambda _: True)
    frames, (total, count), parameters = make_case()
    leaves, calls = [x.requires_grad_() for x in (*frames, total, parameters[0])], []

    def counted(*given: Tensors) -> tuple[Tensor, Tensors]:
        calls.append(1)
        return step(*given)

    def loss(form: Any) -> Tensor:
        output, (after, _) = form(frames, (total, count), parameters)
        return output.sum() + after.sin().sum()

    def walked(*given: Tensors) -> tuple[Tensor, Tensors]:
        return walk(counted, *given, segment_frames)

    found = checkpoint(loss, walked, use_reentrant=False) if is_checkpointed else loss(walked)
    grads = torch.autograd.grad(found, leaves)
    assert len(calls) == segments * (times if is_checkpointed else 2)
    expected = loss(step)
    for own, truth in zip((found, *grads), (expected, *torch.autograd.grad(expected, leaves)), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-12, atol=1e-12)
