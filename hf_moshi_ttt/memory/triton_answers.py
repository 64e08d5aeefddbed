# mypy: disable-error-code="no-untyped-def"
"""What makes a TTT layer's output of the memory's answers, in Triton: one kernel, and two for its backward pass.

It computes what `answer_kernels.py` computes in torch, with r the answers, v the values without their means m:

    c_t = mean over heads of cos(v_t, r_{t-1});   g_t = sigmoid(bias + scale c_t);   z_t = s (g_t r_t + s' m_t)

The gate needs all heads of a frame: the forward kernel and the first of the backward pass have a program for some
frames of a row, the second one for all frames of a row and head.

Legend: B batch, H heads, T frames, F head width.
"""

from __future__ import annotations  # the kernels name types of Triton

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..transformer.first_derivative import first_derivative_only
from .optional_triton import jit, tl, triton

_FRAMES = 16
_WARPS = 4


class AnswerParts(NamedTuple):
    """What an output is made of; None where a learner has no gate or no mean of its values.

    Args:
        answers: r `[B, H, T, F]`.
        values: v `[B, H, T, F]`.
        means: m `[B, H, T, F]`.
        answer_before: r of the frame before the first, `[B, H, F]`.
        answer_scale, mean_scale: s and s' `[H, F]`.
        gate_bias, gate_scale: `[H]`.
    """

    answers: Tensor
    values: Tensor
    means: Tensor | None
    answer_before: Tensor | None
    answer_scale: Tensor
    mean_scale: Tensor | None
    gate_bias: Tensor | None
    gate_scale: Tensor | None


def triton_outputs(parts: AnswerParts, same_frame_heads: int) -> tuple[Tensor, Tensor | None]:
    """z `[B, H, T, F]` and the last answer `[B, H, F]` (None without a gate), with gradients."""
    z, last = _Outputs.apply(same_frame_heads, *parts)
    return z, last


class _Outputs(torch.autograd.Function):
    """z and the last answer; the agreement c `[B, T]` is kept."""

    @staticmethod
    def forward(ctx: Any, same_frame_heads: int, *tensors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        given = [None if x is None else x.contiguous() for x in tensors]
        answers, answer_before = given[0], given[3]
        assert answers is not None
        batch, heads, length, width = answers.shape
        z, last, agreement = torch.empty_like(answers), None, None
        if answer_before is not None:
            last, agreement = torch.empty_like(answer_before), z.new_empty(batch, length)
        ctx.sizes = length, heads, width, same_frame_heads
        grid = batch, -(-length // _FRAMES)
        launch(_forward_kernel, grid, (*given, z, last, agreement), ctx.sizes)
        ctx.save_for_backward(*given, agreement)
        return z, last

    @staticmethod
    @first_derivative_only("Triton kernels", "set use_memory_kernel('torch')")
    def backward(ctx: Any, grad_z: Tensor, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        *given, agreement = ctx.saved_tensors
        answers, values, means, *_ = given
        batch, heads, length, width = answers.shape
        grad_z, has_gate = grad_z.contiguous(), agreement is not None
        of_gates = grad_z.new_empty(batch, heads, length) if has_gate else None  # of their logits
        of_agreement = torch.empty_like(agreement) if has_gate else None
        if has_gate:
            grid = batch, -(-length // _FRAMES)
            launch(_gate_back_kernel, grid, (answers, *given[4:], agreement, grad_z, of_gates, of_agreement), ctx.sizes)
        grad_answers = torch.empty_like(answers)
        grad_values = torch.empty_like(values) if has_gate else None
        grad_means = None if means is None else torch.empty_like(means)
        grad_before = torch.empty_like(grad_last) if has_gate and grad_last is not None else None
        sums = grad_z.new_empty(batch, heads, 2 * width + 2)  # of s, s', the gate's bias and its scale
        grad_last = grad_last.contiguous() if has_gate and grad_last is not None else None
        found = grad_answers, grad_values, grad_means, grad_before, sums
        gate = agreement, grad_z, grad_last, of_gates, of_agreement
        launch(_backward_kernel, (batch * heads,), (*given, *gate, *found), ctx.sizes)
        scale, mean_scale, *gates = sums.sum(0).split([width, width, 1, 1], dim=-1)
        return (
            None, *found[:4], scale, None if means is None else mean_scale,
            *(x[:, 0] if has_gate else None for x in gates),
        )  # fmt: skip


def launch(kernel: Any, grid: tuple[int, ...], tensors: tuple[Tensor | None, ...], sizes: tuple[int, ...]) -> None:
    """Starts a kernel, of T frames, H heads, F channels and a number of same-frame heads."""
    kernel[grid](*tensors, *sizes[:3], sizes[3], _FRAMES, max(16, triton.next_power_of_2(sizes[2])), num_warps=_WARPS)


@jit
def _rows(t, row, f, length, width):
    """Offsets of frames t `[C, F]` of a row and head, and their mask."""
    return (row * length + t[:, None]) * width + f[None, :], (t[:, None] < length) & (f[None, :] < width)


@jit
def _earlier_answers(answers, answer_before, t, row, f, length, width):
    """The answers to the frames before t."""
    offsets, mask = _rows(t - 1, row, f, length, width)
    found = tl.load(answers + offsets, mask=mask & (t[:, None] >= 1), other=0.0)
    is_first = (t[:, None] == 0) & (f[None, :] < width)
    return found + tl.load(answer_before + row * width + f[None, :] + 0 * t[:, None], mask=is_first, other=0.0)


@jit
def _size(x):
    """The norm of each frame, at least 1e-4, and whether it is more."""
    square = tl.sum(x * x, 1)
    return tl.sqrt(tl.maximum(square, 1e-8)), square > 1e-8


@jit
def _forward_kernel(
    answers, values, means, answer_before, answer_scale, mean_scale, gate_bias, gate_scale, z, last, agreement,
    length, heads, width, SAME: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """All heads of some frames of a row: first what the gate is made of, then the outputs."""
    b, f = tl.program_id(0).to(tl.int64), tl.arange(0, BF)
    t = tl.program_id(1) * C + tl.arange(0, C)
    agreed = tl.zeros((C,), tl.float32)
    if answer_before is not None:
        for head in range(SAME, heads):
            offsets, mask = _rows(t, b * heads + head, f, length, width)
            v_t = tl.load(values + offsets, mask=mask, other=0.0)
            said = _earlier_answers(answers, answer_before, t, b * heads + head, f, length, width)
            size_v, _ = _size(v_t)
            size_r, _ = _size(said)
            agreed += tl.sum(v_t * said, 1) / (size_v * size_r)
        agreed /= heads - SAME
        tl.store(agreement + b * length + t, agreed, mask=t < length)
    for head in range(0, heads):
        offsets, mask = _rows(t, b * heads + head, f, length, width)
        found = tl.load(answers + offsets, mask=mask, other=0.0)
        if answer_before is not None:
            is_last = mask & (t[:, None] == length - 1)
            tl.store(last + (b * heads + head) * width + f[None, :] + 0 * t[:, None], found, mask=is_last)
            found *= tl.sigmoid(tl.load(gate_bias + head) + tl.load(gate_scale + head) * agreed)[:, None]
        if means is not None:
            scale = tl.load(mean_scale + head * width + f, mask=f < width, other=0.0)
            found += scale[None, :] * tl.load(means + offsets, mask=mask, other=0.0)
        scale = tl.load(answer_scale + head * width + f, mask=f < width, other=0.0)
        tl.store(z + offsets, scale[None, :] * found, mask=mask)


@jit
def _gate_back_kernel(
    answers, answer_scale, mean_scale, gate_bias, gate_scale, agreement, grad_z, of_gates, of_agreement,
    length, heads, width, SAME: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """The gradients of the gates' logits and of what all heads agree on, for some frames of a row."""
    b, f = tl.program_id(0).to(tl.int64), tl.arange(0, BF)
    t = tl.program_id(1) * C + tl.arange(0, C)
    agreed = tl.load(agreement + b * length + t, mask=t < length, other=0.0)
    total = tl.zeros((C,), tl.float32)
    for head in range(0, heads):
        row = b * heads + head
        offsets, mask = _rows(t, row, f, length, width)
        scale = tl.load(answer_scale + head * width + f, mask=f < width, other=0.0)[None, :]
        grad = (
            scale * tl.load(grad_z + offsets, mask=mask, other=0.0) * tl.load(answers + offsets, mask=mask, other=0.0)
        )
        scale = tl.load(gate_scale + head)
        gate = tl.sigmoid(tl.load(gate_bias + head) + scale * agreed)
        of_logit = tl.sum(grad, 1) * gate * (1.0 - gate)
        tl.store(of_gates + row * length + t, of_logit, mask=t < length)
        total += scale * of_logit
    tl.store(of_agreement + b * length + t, total / (heads - SAME), mask=t < length)


@jit
def _cosine_back(x, other, of_cosine):
    """The gradient of x by that of its cosine with another."""
    size_x, is_long = _size(x)
    size_other, _ = _size(other)
    shrinking = tl.where(is_long, tl.sum(x * other, 1) / (size_x * size_x), 0.0)
    return (of_cosine / (size_x * size_other))[:, None] * (other - shrinking[:, None] * x)


@jit
def _backward_kernel(
    answers, values, means, answer_before, answer_scale, mean_scale, gate_bias, gate_scale,
    agreement, grad_z, grad_last, of_gates, of_agreement, found_answers, found_values, found_means, found_before, sums,
    length, heads, width, SAME: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """All frames of a row and head."""
    n, f = tl.program_id(0).to(tl.int64), tl.arange(0, BF)
    b, head = n // heads, n % heads
    scale = tl.load(answer_scale + head * width + f, mask=f < width, other=0.0)
    of_scale, of_mean_scale = tl.zeros((BF,), tl.float32), tl.zeros((BF,), tl.float32)
    of_bias, of_gate_scale = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    for first in range(0, length, C):
        t = first + tl.arange(0, C)
        offsets, mask = _rows(t, n, f, length, width)
        grad = tl.load(grad_z + offsets, mask=mask, other=0.0)
        r_t = tl.load(answers + offsets, mask=mask, other=0.0)
        output, grad_r = r_t, scale[None, :] * grad
        if means is not None:
            m_t = tl.load(means + offsets, mask=mask, other=0.0)
            of_mean_scale += tl.sum(grad_r * m_t, 0)
            mean_factor = tl.load(mean_scale + head * width + f, mask=f < width, other=0.0)[None, :]
            tl.store(found_means + offsets, grad_r * mean_factor, mask=mask)
        if answer_before is not None:
            agreed = tl.load(agreement + b * length + t, mask=t < length, other=0.0)
            gate = tl.sigmoid(tl.load(gate_bias + head) + tl.load(gate_scale + head) * agreed)[:, None]
            output, grad_r = gate * r_t, gate * grad_r
            of_logit = tl.load(of_gates + n * length + t, mask=t < length, other=0.0)
            of_bias += of_logit
            of_gate_scale += of_logit * agreed
            has_say = head + 0 * t >= SAME
            of_cosine = tl.load(of_agreement + b * length + t, mask=(t < length) & has_say, other=0.0)
            v_t = tl.load(values + offsets, mask=mask, other=0.0)
            said = _earlier_answers(answers, answer_before, t, n, f, length, width)
            tl.store(found_values + offsets, _cosine_back(v_t, said, of_cosine), mask=mask)
            is_first = mask & (t[:, None] == 0)
            of_said = _cosine_back(said, v_t, of_cosine)
            tl.store(found_before + n * width + f[None, :] + 0 * t[:, None], of_said, mask=is_first)
            of_next = tl.load(of_agreement + b * length + t + 1, mask=(t + 1 < length) & has_say, other=0.0)
            next_offsets, next_mask = _rows(t + 1, n, f, length, width)
            v_next = tl.load(values + next_offsets, mask=next_mask, other=0.0)
            grad_r += _cosine_back(r_t, v_next, of_next)
            if grad_last is not None:
                is_last = mask & (t[:, None] == length - 1)
                grad_r += tl.load(grad_last + n * width + f[None, :] + 0 * t[:, None], mask=is_last, other=0.0)
        if means is not None:
            output += mean_factor * m_t
        of_scale += tl.sum(grad * output, 0)
        tl.store(found_answers + offsets, grad_r, mask=mask)
    target = sums + n * (2 * width + 2)
    tl.store(target + f, of_scale, mask=f < width)
    tl.store(target + width + f, of_mean_scale, mask=f < width)
    tl.store(target + 2 * width, tl.sum(of_bias, 0))
    tl.store(target + 2 * width + 1, tl.sum(of_gate_scale, 0))
