"""The front end and the mean of the values in torch or in Triton's kernels; the choice is that of the delta rule.

Under `auto` the kernels are compared with torch once per device and sizes, gradients included.

Legend: B batch, H heads, H' heads with convolution and lag, T frames, F head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .delta_kernels import chosen_kernel, is_chosen_by_trial, largest_difference, passes_one_trial, with_gradients
from .front_end import FrontEndState, Span, normed_values, spanning, value_means

_TRIAL_FRAMES = 40


class Spanned(NamedTuple):
    """What the learner is given, `[B, H, T, F]` each: queries, keys, values without their means, and the means (None
    without); and what the front end and the mean remember."""

    q: Tensor
    k: Tensor
    v: Tensor
    means: Tensor | None
    state: FrontEndState
    value_mean: Tensor | None


Frames = tuple[Tensor, Tensor, Tensor, Tensor]
Weights = tuple[Tensor, ...]


def span_frames(
    frames: Frames, state: FrontEndState, value_mean: Tensor | None, convolutions: Weights, span: Span, fast: Tensor
) -> Spanned:
    """Frames after others.

    Args:
        frames: projections q, k, v `[B, H, T, F]` and writes `[B, H, T]`.
        value_mean: the running mean of the values `[B, H, F]`, or None for a learner without.
        convolutions: weights of queries and keys `[H', F, W]`; empty with W = 1.
        fast: the memory, which decides on the kernel.
    """
    rule = _torch_form
    if chosen_kernel(fast) == "triton" and not torch.compiler.is_compiling():
        given = frames, state, value_mean, convolutions, span
        if not is_chosen_by_trial() or _is_sound(*given):
            rule = _triton_form
    return rule(frames, state, value_mean, convolutions, span)


def _torch_form(
    frames: Frames, state: FrontEndState, value_mean: Tensor | None, convolutions: Weights, span: Span
) -> Spanned:
    q, k, v, write = frames
    v, means, mean_after = normed_values(v), None, None
    if value_mean is not None:
        means = value_means(v, write, value_mean, state.frames, span)
        mean_after = means[:, :, -1].clone()
    q, k, after = spanning(q, k, state, convolutions, span)
    return Spanned(q, k, v if means is None else v - means, means, after, mean_after)


def _triton_form(
    frames: Frames, state: FrontEndState, value_mean: Tensor | None, convolutions: Weights, span: Span
) -> Spanned:
    from .triton_front_end import triton_front_end

    return Spanned(*triton_front_end(frames, state, value_mean, convolutions, span))


def _is_sound(
    frames: Frames, state: FrontEndState, value_mean: Tensor | None, convolutions: Weights, span: Span
) -> bool:
    case, given = (*state.mean.shape[1:], span, value_mean is None), (state, value_mean, convolutions, span)
    device = str(state.mean.device)
    return passes_one_trial("The kernel of the front end", device, case, lambda: _difference(frames, *given))


def _difference(
    frames: Frames, state: FrontEndState, value_mean: Tensor | None, convolutions: Weights, span: Span
) -> float:
    """Of everything that both forms give, and of its gradients, on random frames of one row."""
    generator = torch.Generator().manual_seed(0)

    def random(like: Tensor, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(like)

    heads, width = state.mean.shape[1:]
    shapes = [(1, heads, _TRIAL_FRAMES, width)] * 3
    projections = [random(x, *shape) for x, shape in zip(frames, shapes, strict=False)]
    write = random(frames[3], *shapes[0][:3]).clamp_min(0)
    before = [random(x, 1, *x.shape[1:]) for x in (state.queries, state.keys, state.mean)]
    mean = [] if value_mean is None else [random(value_mean, 1, *value_mean.shape[1:])]
    leaves = [x.detach().clone().requires_grad_() for x in (*projections, *before, *mean, *convolutions)]
    found = []
    for form in (_triton_form, _torch_form):
        with torch.enable_grad():
            q, k, v, queries, keys, key_mean, *rest = leaves
            state = FrontEndState(queries, keys, key_mean, torch.full_like(state.frames[:1], 3))
            out = form((q, k, v, write), state, rest[0] if mean else None, tuple(rest[len(mean) :]), span)
            after = out.state.queries, out.state.keys, out.state.mean
            found.append(with_gradients((out.q, out.k, out.v, out.means, *after, out.value_mean), leaves))
    return largest_difference(*found)
