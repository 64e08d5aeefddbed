# mypy: disable-error-code="no-untyped-def"
"""The front end of a TTT layer and the mean of its values in Triton: one kernel, and one for its backward pass.

It computes what `front_end.py` computes: norms of queries, keys and values, running means of keys and values, centring,
convolution and lag. A program walks over the frames of one row and head, `_FRAMES` at once, whose running means are a
matrix product: with weights w_ij of frame j in the mean at frame i, and d_i that of the mean before,

    m = w x + d m_before;   backward from the last frames: dx = w^T dm, dm_before = d . dm

where dm of the last frame includes what comes from later ones.

Legend: B batch, H heads, N = B * H, H' heads with convolution and lag, T frames, F head width, W taps, L lag.
"""

from __future__ import annotations  # the kernels name types of Triton

from typing import Any

import torch
from torch import Tensor

from ..transformer.first_derivative import first_derivative_only
from .front_end import FrontEndState, Span
from .optional_triton import jit, tl, triton

_FRAMES = 32
_WARPS = 4


def triton_front_end(
    frames: tuple[Tensor, Tensor, Tensor, Tensor],
    state: FrontEndState,
    value_mean: Tensor | None,
    convolutions: tuple[Tensor, ...],
    span: Span,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, FrontEndState, Tensor | None]:
    """The fields of `front_end_kernels.Spanned`, with gradients.

    Args:
        frames: projections q, k, v `[B, H, T, F]` and writes `[B, H, T]`.
        value_mean: the running mean of the values `[B, H, F]`, or None for a learner without.
        convolutions: weights of queries and keys `[H', F, W]`; empty with W = 1.
    """
    given = (*frames, state.queries, state.keys, state.mean, value_mean, *(convolutions or (None, None)))
    q, k, v, means, queries, keys, mean, value_mean = _FrontEnd.apply(span, state.frames, *given)
    count = state.frames + q.shape[2]
    count = count.clamp_max(span.horizon_frames) if span.horizon_frames else state.frames.clone()
    return q, k, v, means, FrontEndState(queries, keys, mean, count), value_mean


class _FrontEnd(torch.autograd.Function):
    """q, k, v and means, and the queries, keys, mean and mean of values after the last frame."""

    @staticmethod
    def forward(ctx: Any, span: Span, counts: Tensor, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [None if x is None else x.contiguous() for x in tensors]
        q, _, v, write, queries, keys, mean, value_mean, *weights = given
        assert q is not None and v is not None and queries is not None and keys is not None and mean is not None
        batch, heads, length, width = q.shape
        centred = [q.new_empty(batch, heads, length + x.shape[2], width) for x in (queries, keys)]  # behind the past
        outputs = [torch.empty_like(q) for _ in range(3)]
        means, value_mean_after = (None if value_mean is None else torch.empty_like(x) for x in (v, mean))
        after = [torch.empty_like(x) for x in (queries, keys, mean)]
        tensors = (*given, counts, *centred, *outputs, means, *after, value_mean_after)
        launch(_forward_kernel, batch * heads, tensors, (length, heads, width), span)
        ctx.span = span
        ctx.save_for_backward(*given[:4], *weights, counts, *centred, value_mean)
        return (*outputs, means, *after, value_mean_after)

    @staticmethod
    @first_derivative_only("Triton kernels", "set use_memory_kernel('torch')")
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, write, *weights, counts, rows_q, rows_k, value_mean = ctx.saved_tensors
        span: Span = ctx.span
        batch, heads, length, width = q.shape
        found = [torch.empty_like(x) for x in (q, k, v)]
        past = [q.new_empty(batch, heads, x.shape[2] - length, width) for x in (rows_q, rows_k)]
        grad_mean = q.new_empty(batch, heads, width)
        grad_value_mean = None if value_mean is None else torch.empty_like(grad_mean)
        shape = (batch, heads - span.same_frame_heads, width, span.width)
        grad_weights = [None if weight is None else q.new_empty(shape) for weight in weights]
        given = (
            q,
            k,
            v,
            write,
            *weights,
            counts,
            rows_q,
            rows_k,
            *(None if x is None else x.contiguous() for x in grads),
        )
        tensors = (*given, *found, *past, grad_mean, grad_value_mean, *grad_weights)
        launch(_backward_kernel, batch * heads, tensors, (length, heads, width), span)
        past = [x[:, span.same_frame_heads :] for x in past]
        sums = [None if x is None else x.sum(0) for x in grad_weights]
        return (None, None, *found, None, *past, grad_mean, grad_value_mean, *sums)


def launch(kernel: Any, rows: int, tensors: tuple[Tensor | None, ...], sizes: tuple[int, int, int], span: Span) -> None:
    """Starts a kernel for rows and heads `rows`, of T frames, H heads and F channels."""
    constants = (span.horizon_frames, span.same_frame_heads, span.width, span.lag, _FRAMES)
    width = max(16, triton.next_power_of_2(sizes[2]))
    kernel[(rows,)](*tensors, *sizes, *constants, width, num_warps=_WARPS, num_stages=1)


@jit
def _normed(x, width):
    """Frames of RMS 1, and the factor of each."""
    factor = tl.rsqrt(tl.sum(x * x, 1) / width + 1e-6)[:, None]
    return x * factor, factor


@jit
def _normed_back(x, factor, grad, width):
    """The gradient of frames x of RMS 1 by what they were before."""
    return factor * (grad - x * (tl.sum(x * grad, 1) / width)[:, None])


@jit
def _mean_weights(heard, t, length, HORIZON: tl.constexpr):
    """w_ij and d_i; frames from `length` on change nothing."""
    counts = tl.minimum(heard + 1 + t, HORIZON).to(tl.float32)
    shares = tl.where(t < length, 1.0 / counts, 0.0)
    log_kept = tl.cumsum(tl.log(tl.where(shares < 1, 1.0 - shares, 1.0)), 0)
    later = t[:, None] >= t[None, :]
    differences = tl.where(later, log_kept[:, None] - log_kept[None, :], 0.0)
    return tl.where(later, tl.exp(differences) * shares[None, :], 0.0), tl.exp(log_kept)[:, None]


@jit
def _last(x, C: tl.constexpr):
    """The last row of a block."""
    return tl.sum(tl.where((tl.arange(0, C) == C - 1)[:, None], x, 0.0), 0)


@jit
def _convolve(rows, weights, n, head, t, f, past, length, width, W: tl.constexpr):
    """A block of frames as the learner gets it: convolved, or for a head without convolution as they are."""
    total = past + length
    mask = (t[:, None] < length) & (f[None, :] < width)
    own = tl.load(rows + (n * total + past + t[:, None]) * width + f[None, :], mask=mask, other=0.0)
    spans = mask & (head + 0 * t[:, None] >= 0)
    found = tl.zeros_like(own)
    for i in tl.static_range(W):
        x = tl.load(rows + (n * total + t[:, None] + i) * width + f[None, :], mask=spans, other=0.0)
        if weights is not None:
            tap = tl.load(weights + (head * width + f) * W + i, mask=(f < width) & (head + 0 * f >= 0), other=0.0)
            x *= tap[None, :]
        found += x
    return tl.where(spans, found, own)


@jit
def _copy_rows(source, source_row, target, target_row, count, f, width):
    """`count` rows of `width` channels."""
    for i in range(count):
        x = tl.load(source + (source_row + i) * width + f, mask=f < width, other=0.0)
        tl.store(target + (target_row + i) * width + f, x, mask=f < width)


@jit
def _forward_kernel(
    q, k, v, write, queries, keys, mean, value_mean, conv_q, conv_k, counts, rows_q, rows_k,
    spanning_q, spanning_k, values, means, queries_after, keys_after, mean_after, value_mean_after,
    length, heads, width,
    HORIZON: tl.constexpr, SAME: tl.constexpr, W: tl.constexpr, L: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """All frames of a row and head: centred behind the past, then convolved."""
    n = tl.program_id(0).to(tl.int64)
    b, head = n // heads, n % heads - SAME
    kept_row = b * (heads - SAME) + head
    f = tl.arange(0, BF)
    heard = tl.load(counts + b)
    total_q, total_k = W - 1 + length, W - 1 + L + length
    if head >= 0:
        _copy_rows(queries, kept_row * (W - 1), rows_q, n * total_q, W - 1, f, width)
        _copy_rows(keys, kept_row * (W - 1 + L), rows_k, n * total_k, W - 1 + L, f, width)
    m = tl.load(mean + n * width + f, mask=f < width, other=0.0)
    m_v = m
    if value_mean is not None:
        m_v = tl.load(value_mean + n * width + f, mask=f < width, other=0.0)
    for first in range(0, length, C):
        t = first + tl.arange(0, C)
        offsets = (n * length + t[:, None]) * width + f[None, :]
        mask = (t[:, None] < length) & (f[None, :] < width)
        q_t, _ = _normed(tl.load(q + offsets, mask=mask, other=0.0), width)
        k_t, _ = _normed(tl.load(k + offsets, mask=mask, other=0.0), width)
        v_t, _ = _normed(tl.load(v + offsets, mask=mask, other=0.0), width)
        if HORIZON > 0:
            weights, before = _mean_weights(heard, t, length, HORIZON)
            m_t = tl.dot(weights, k_t, input_precision="tf32x3") + before * m[None, :]
            q_t, k_t, m = q_t - m_t, k_t - m_t, _last(m_t, C)
            if value_mean is not None:
                is_written = tl.load(write + n * length + t, mask=t < length, other=0.0)[:, None] > 0
                m_t = tl.dot(weights, tl.where(is_written, v_t, 0.0), input_precision="tf32x3") + before * m_v[None, :]
                v_t, m_v = v_t - m_t, _last(m_t, C)
                tl.store(means + offsets, m_t, mask=mask)
        tl.store(values + offsets, v_t, mask=mask)
        tl.store(rows_q + (n * total_q + W - 1 + t[:, None]) * width + f[None, :], q_t, mask=mask)
        tl.store(rows_k + (n * total_k + W - 1 + L + t[:, None]) * width + f[None, :], k_t, mask=mask)
    tl.store(mean_after + n * width + f, m, mask=f < width)
    if value_mean is not None:
        tl.store(value_mean_after + n * width + f, m_v, mask=f < width)
    tl.debug_barrier()  # what was stored is read by other threads of this program
    for first in range(0, length, C):
        t = first + tl.arange(0, C)
        offsets = (n * length + t[:, None]) * width + f[None, :]
        mask = (t[:, None] < length) & (f[None, :] < width)
        tl.store(spanning_q + offsets, _convolve(rows_q, conv_q, n, head, t, f, W - 1, length, width, W), mask=mask)
        tl.store(spanning_k + offsets, _convolve(rows_k, conv_k, n, head, t, f, W - 1 + L, length, width, W), mask=mask)
    if head >= 0:
        _copy_rows(rows_q, n * total_q + length, queries_after, kept_row * (W - 1), W - 1, f, width)
        _copy_rows(rows_k, n * total_k + length, keys_after, kept_row * (W - 1 + L), W - 1 + L, f, width)


@jit
def _convolve_back(grads, after, weights, n, head, kept_row, s, f, past, length, width, W: tl.constexpr):
    """The gradient of rows s, the past included, by what was made of them and by what is remembered of them."""
    mask = (s[:, None] < past + length) & (f[None, :] < width)
    is_kept = head + 0 * s[:, None] >= 0
    own = mask & (s[:, None] >= past)
    own = own & (head + 0 * s[:, None] < 0)
    found = tl.load(grads + (n * length + s[:, None] - past) * width + f[None, :], mask=own, other=0.0)
    remembered = mask & is_kept & (s[:, None] >= length)
    found += tl.load(after + (kept_row * past + s[:, None] - length) * width + f[None, :], mask=remembered, other=0.0)
    for i in tl.static_range(W):
        t = s[:, None] - i
        used = mask & is_kept & (t >= 0) & (t < length)
        x = tl.load(grads + (n * length + t) * width + f[None, :], mask=used, other=0.0)
        if weights is not None:
            tap = tl.load(weights + (head * width + f) * W + i, mask=(f < width) & (head + 0 * f >= 0), other=0.0)
            x *= tap[None, :]
        found += x
    return found


@jit
def _weights_back(grads, rows, target, n, kept_row, f, past, length, width, W: tl.constexpr, C: tl.constexpr):
    """The gradient of a head's taps."""
    for i in tl.static_range(W):
        total = tl.zeros_like(f).to(tl.float32)
        for first in range(0, length, C):
            t = first + tl.arange(0, C)
            mask = (t[:, None] < length) & (f[None, :] < width)
            grad = tl.load(grads + (n * length + t[:, None]) * width + f[None, :], mask=mask, other=0.0)
            x = tl.load(rows + (n * (past + length) + t[:, None] + i) * width + f[None, :], mask=mask, other=0.0)
            total += tl.sum(grad * x, 0)
        tl.store(target + (kept_row * width + f) * W + i, total, mask=f < width)


@jit
def _backward_kernel(
    q, k, v, write, conv_q, conv_k, counts, rows_q, rows_k,
    grad_q, grad_k, grad_v, grad_means, grad_queries, grad_keys, grad_mean_after, grad_value_mean_after,
    found_q, found_k, found_v, found_queries, found_keys, grad_mean, grad_value_mean, grad_conv_q, grad_conv_k,
    length, heads, width,
    HORIZON: tl.constexpr, SAME: tl.constexpr, W: tl.constexpr, L: tl.constexpr, C: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """All frames of a row and head, the last ones first; the past has at most as many frames as a block."""
    n = tl.program_id(0).to(tl.int64)
    b, head = n // heads, n % heads - SAME
    kept_row = b * (heads - SAME) + head
    f = tl.arange(0, BF)
    heard = tl.load(counts + b)
    m = tl.load(grad_mean_after + n * width + f, mask=f < width, other=0.0)
    m_v = m
    if grad_value_mean is not None:
        m_v = tl.load(grad_value_mean_after + n * width + f, mask=f < width, other=0.0)
    is_last = (tl.arange(0, C) == C - 1)[:, None]
    blocks = tl.cdiv(length, C)
    for step in range(blocks):
        t = (blocks - 1 - step) * C + tl.arange(0, C)
        offsets = (n * length + t[:, None]) * width + f[None, :]
        mask = (t[:, None] < length) & (f[None, :] < width)
        dq = _convolve_back(grad_q, grad_queries, conv_q, n, head, kept_row, t + W - 1, f, W - 1, length, width, W)
        dk = _convolve_back(grad_k, grad_keys, conv_k, n, head, kept_row, t + W - 1 + L, f, W - 1 + L, length, width, W)
        dv = tl.load(grad_v + offsets, mask=mask, other=0.0)
        q_t, q_factor = _normed(tl.load(q + offsets, mask=mask, other=0.0), width)
        k_t, k_factor = _normed(tl.load(k + offsets, mask=mask, other=0.0), width)
        v_t, v_factor = _normed(tl.load(v + offsets, mask=mask, other=0.0), width)
        if HORIZON > 0:
            weights, before = _mean_weights(heard, t, length, HORIZON)
            weights = tl.trans(weights)
            dm = tl.where(is_last, m[None, :], 0.0) - dq - dk
            dk += tl.dot(weights, dm, input_precision="tf32x3")
            m = tl.sum(before * dm, 0)
            if grad_value_mean is not None:
                is_written = tl.load(write + n * length + t, mask=t < length, other=0.0)[:, None] > 0
                dm = tl.where(is_last, m_v[None, :], 0.0) + tl.load(grad_means + offsets, mask=mask, other=0.0) - dv
                dv += tl.where(is_written, tl.dot(weights, dm, input_precision="tf32x3"), 0.0)
                m_v = tl.sum(before * dm, 0)
        tl.store(found_q + offsets, _normed_back(q_t, q_factor, dq, width), mask=mask)
        tl.store(found_k + offsets, _normed_back(k_t, k_factor, dk, width), mask=mask)
        tl.store(found_v + offsets, _normed_back(v_t, v_factor, dv, width), mask=mask)
    tl.store(grad_mean + n * width + f, m, mask=f < width)
    if grad_value_mean is not None:
        tl.store(grad_value_mean + n * width + f, m_v, mask=f < width)
    if head >= 0:
        s = tl.arange(0, C)
        past_q, past_k = W - 1, W - 1 + L
        dq = _convolve_back(grad_q, grad_queries, conv_q, n, head, kept_row, s, f, past_q, length, width, W)
        dk = _convolve_back(grad_k, grad_keys, conv_k, n, head, kept_row, s, f, past_k, length, width, W)
        mask = f[None, :] < width
        rows = (n * past_q + s[:, None]) * width + f[None, :]
        tl.store(found_queries + rows, dq, mask=mask & (s[:, None] < past_q))
        rows = (n * past_k + s[:, None]) * width + f[None, :]
        tl.store(found_keys + rows, dk, mask=mask & (s[:, None] < past_k))
        if conv_q is not None:
            _weights_back(grad_q, rows_q, grad_conv_q, n, kept_row, f, past_q, length, width, W, C)
            _weights_back(grad_k, rows_k, grad_conv_k, n, kept_row, f, past_k, length, width, W, C)
