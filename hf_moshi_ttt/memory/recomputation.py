"""A sequence walked in segments, whose inside is computed once more in the backward pass instead of being kept.

`walk(step, ...)` calls `step(frames, state, parameters) -> (output, state)` on one segment of frames after the other.
Training keeps the sequences, which exist anyway, and the states between segments; gradients are written straight into
one tensor per sequence. So memory does not grow with what happens inside a step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..transformer.first_derivative import first_derivative_only
from ..transformer.row_product import counts_kernels

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, Tensors, Tensors], tuple[Tensor, Tensors]]


def walk(
    step: Step, frames: Tensors, state: Tensors, parameters: Tensors, segment_frames: int
) -> tuple[Tensor, Tensors]:
    """The outputs of all frames and the state after the last one.

    Under `torch.compile` the inside is left to the compiler, which decides by itself what it keeps. Off CPUs a single
    segment in a layer that torch checkpoints is left to that: it would be computed a third time for nothing.

    Args:
        step: a pure function that holds no tensors, as these would not be freed; it returns new tensors. Integer
            tensors of the state have no gradient.
        frames: tensors with time on axis 2, like the output.
        parameters: whatever else has gradients.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        outputs, states = _run(step, frames, state, parameters, segment_frames)
        return _joined(outputs), states[-1]
    if frames[0].shape[2] <= segment_frames and counts_kernels(frames[0]) and _is_checkpointed():
        return step(frames, state, parameters)
    sizes = (len(frames), len(state), segment_frames)
    output, *after = _Walk.apply(step, sizes, *frames, *state, *parameters)
    return output, tuple(after)


def _is_checkpointed() -> bool:
    """Whether what is kept now is dropped, or was, by torch's activation checkpointing (not reentrant)."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


def _run(
    step: Step, frames: Tensors, state: Tensors, parameters: Tensors, segment_frames: int
) -> tuple[list[Tensor], list[Tensors]]:
    """The outputs of each segment, and the states before the first and after each."""
    outputs, states = [], [state]
    for part in _segments(frames, segment_frames):
        output, state = step(part, state, parameters)
        outputs.append(output)
        states.append(state)
    return outputs, states


def _joined(outputs: list[Tensor]) -> Tensor:
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _segments(frames: Sequence[Tensor], segment_frames: int) -> list[Tensors]:
    if frames[0].shape[2] <= segment_frames:
        return [tuple(frames)]
    return list(zip(*(x.split(segment_frames, dim=2) for x in frames), strict=True))


class _Walk(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, sizes: tuple[int, int, int], *tensors: Tensor) -> Tensors:
        num_frames, num_state, ctx.segment_frames = sizes
        frames, state = tensors[:num_frames], tensors[num_frames : num_frames + num_state]
        parameters = tensors[num_frames + num_state :]
        outputs, states = _run(step, frames, state, parameters, ctx.segment_frames)
        ctx.step, ctx.sizes = step, (num_frames, num_state, len(outputs))
        ctx.save_for_backward(*frames, *parameters, *(x for before in states[:-1] for x in before))
        ctx.mark_non_differentiable(*(x for x in states[-1] if not x.is_floating_point()))
        # FSDP2 hooks what a layer returns, which it cannot do safely on views.
        return _joined(outputs), *(x.clone() if x._is_view() else x for x in states[-1])

    @staticmethod
    @first_derivative_only("memories", "differentiate the plain recurrences, such as those of memory/online.py")
    def backward(ctx: Any, grad_output: Tensor, *grad_state: Tensor) -> tuple[Tensor | None, ...]:
        num_frames, num_state, count = ctx.sizes
        saved = ctx.saved_tensors
        first_state = len(saved) - count * num_state
        frames, parameters, states = saved[:num_frames], saved[num_frames:first_state], saved[first_state:]
        if count == 1:
            inputs = _leaves((*frames, *states, *parameters))
            found, grad_state = _back(ctx.step, inputs, (num_frames, num_state), grad_output, grad_state)
            return None, None, *found[:num_frames], *grad_state, *found[num_frames:]
        grad_frames = [torch.empty_like(x) for x in frames]
        grad_parameters: list[Tensor] = []
        pieces = list(
            zip(
                _segments(frames, ctx.segment_frames),
                _segments([grad_output, *grad_frames], ctx.segment_frames),
                strict=True,
            )
        )
        for index in reversed(range(count)):
            part, (grad, *grads) = pieces[index]
            before = states[index * num_state : (index + 1) * num_state]
            inputs = _leaves((*part, *before, *parameters))
            found, grad_state = _back(ctx.step, inputs, (num_frames, num_state), grad, grad_state)
            for target, value in zip(grads, found[:num_frames], strict=True):
                target.copy_(value)
            grad_parameters = _sums(grad_parameters, found[num_frames:])
        return None, None, *grad_frames, *grad_state, *grad_parameters


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_(x.is_floating_point()) for x in tensors]


def _sums(totals: list[Tensor], values: list[Tensor]) -> list[Tensor]:
    """Of each pair; the values where there is nothing to add them to."""
    return [a + b for a, b in zip(totals, values, strict=True)] if totals else values


def _back(
    step: Step, inputs: list[Tensor], sizes: tuple[int, int], grad: Tensor, grad_state: Sequence[Tensor]
) -> tuple[list[Tensor], Tensors]:
    """The gradients of a segment's frames and of the parameters, and those of the state before it."""
    num_frames, num_state = sizes
    frames, state = tuple(inputs[:num_frames]), tuple(inputs[num_frames : num_frames + num_state])
    with torch.enable_grad():
        output, after = step(frames, state, tuple(inputs[num_frames + num_state :]))
    pairs = [(x, g) for x, g in zip(after, grad_state, strict=True) if x.requires_grad]
    leaves = [x for x in inputs if x.requires_grad]
    grads = iter(
        torch.autograd.grad(
            [output, *(x for x, _ in pairs)], leaves, [grad, *(g for _, g in pairs)],
            allow_unused=True, materialize_grads=True,
        )
    )  # fmt: skip
    found = [next(grads) if x.requires_grad else torch.zeros_like(x) for x in inputs]
    return found[:num_frames] + found[num_frames + num_state :], tuple(found[num_frames : num_frames + num_state])
