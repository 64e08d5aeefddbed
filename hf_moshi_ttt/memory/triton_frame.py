# mypy: disable-error-code="no-untyped-def"
"""A live frame of a TTT layer in one Triton kernel: gates, front end, features, delta step, answer gate and mean.

It computes what `online_learner.py` computes for one frame without gradients, in float32, of projections in any dtype.
A program owns some columns of S of one row and head; each slow weight and each fast weight that it needs is read once,
and S' is written once. What it needs of other columns and heads, which is narrow, every program computes for itself, so
that none waits for another.

Legend: B batch, H heads, H' heads with convolution and lag, F head width, I width of the features, W taps, L lag.
"""

from __future__ import annotations  # the kernels name types of Triton

import torch
from torch import Tensor

from .front_end import Span
from .optional_triton import jit, tl, triton
from .short_frame import FrameInput, FrameParameters, FrameState

_COLUMNS = 16  # of S at once, so that they fit the registers beside all features
_CHANNELS = 16  # of a query and key at once, for the same reason
_PROGRAMS_PER_HEAD = 4  # 128 for one stream of the 7B, of an H100's 132
_WARPS = 8


def triton_frame(
    span: Span, frame: FrameInput, parameters: FrameParameters, before: FrameState
) -> tuple[Tensor, FrameState]:
    """z `[B, H, 1, F]` and the state after the frame, in new tensors; without gradients."""
    batch, heads, width, columns = before.fast_weights.shape
    front_end = before.front_end
    after = FrameState(
        torch.empty_like(before.fast_weights),
        front_end.map(lambda _, x: torch.empty_like(x)),
        *(None if x is None else torch.empty_like(x) for x in before[2:]),
    )
    z = torch.empty(frame.v.shape, dtype=before.fast_weights.dtype, device=frame.v.device)
    given = (
        *frame[:4], *parameters[:7], *(parameters.convolutions or (None, None)), *parameters.slow_layer,
        *_tensors(before),
    )  # fmt: skip
    blocks = triton.cdiv(columns, _COLUMNS)
    programs = min(_PROGRAMS_PER_HEAD, blocks)
    launch_frame(
        (batch * heads, programs),
        (*(None if x is None else x.contiguous() for x in given), z, *_tensors(after)),
        (frame.lr, heads, columns, width),
        (
            span.horizon_frames, span.same_frame_heads, span.width, span.lag, triton.next_power_of_2(heads),
            triton.next_power_of_2(columns), triton.next_power_of_2(width), min(_CHANNELS, columns),
            _COLUMNS, triton.cdiv(blocks, programs),
        ),
    )  # fmt: skip
    return z, after


def _tensors(state: FrameState) -> tuple[Tensor | None, ...]:
    front_end = state.front_end
    return (
        state.fast_weights, front_end.queries, front_end.keys, front_end.mean, front_end.frames, state.value_mean,
        state.answer,
    )  # fmt: skip


def launch_frame(
    grid: tuple[int, int], tensors: tuple[Tensor | None, ...], sizes: tuple[float, ...], constants: tuple[int, ...]
) -> None:
    """Starts the kernel."""
    _frame_kernel[grid](*tensors, *sizes, *constants, num_warps=_WARPS, num_stages=1)


@jit
def _softplus(x):
    """log(1 + e^x), exact where e^x is small."""
    y = tl.exp(-tl.abs(x))
    total = 1.0 + y
    log1p = tl.where(total == 1.0, y, tl.log(total) * y / tl.where(total == 1.0, 1.0, total - 1.0))
    return tl.maximum(x, 0.0) + log1p


@jit
def _spanning(new, past, weights, head, row, f, mask, width, W: tl.constexpr, L: tl.constexpr):
    """Channels f of a query (L = 0) or a key: the convolution of the frames before and the new one, or the new one.

    The condition has a block's shape: interpreted, a mask must not come from a single boolean.
    """
    if W == 1 and L == 0:
        return new
    spans = head + 0 * f >= 0
    total = tl.zeros_like(new)
    for i in tl.static_range(W):
        heard = past + (row * (W - 1 + L) + i) * width + f
        x = tl.load(heard, mask=mask & spans, other=0.0) if i < W - 1 + L else new
        if W > 1:
            x *= tl.load(weights + (head * width + f) * W + i, mask=mask & spans, other=0.0)
        total += x
    return tl.where(spans, total, new)


@jit
def _remember(new, past, target, row, f, mask, width, KEPT: tl.constexpr):
    """The last KEPT frames, the new one included."""
    for i in tl.static_range(KEPT):
        x = tl.load(past + (row * KEPT + i + 1) * width + f, mask=mask, other=0.0) if i < KEPT - 1 else new
        tl.store(target + (row * KEPT + i) * width + f, x, mask=mask)


@jit
def _frame_kernel(
    q, k, v, gates, answer_scale, mean_scale, write_bias, decay_bias, log_decay_scale, gate_bias, gate_scale,
    conv_q, conv_k, slow_weight, slow_bias,
    fast, queries, keys, mean, frames, value_mean, answer,
    z, fast_after, queries_after, keys_after, mean_after, frames_after, value_mean_after, answer_after,
    lr, heads, width, features,
    HORIZON: tl.constexpr, SAME: tl.constexpr, W: tl.constexpr, L: tl.constexpr, BH: tl.constexpr, BF: tl.constexpr,
    BI: tl.constexpr, BX: tl.constexpr, BC: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The columns `BC * BLOCKS * program_id(1)` and following of one row and head."""
    n = tl.program_id(0).to(tl.int64)
    b, h = n // heads, n % heads
    is_first = tl.program_id(1) == 0
    row, head = b * (heads - SAME) + h - SAME, h - SAME  # of what only the heads with convolution have
    f, i = tl.arange(0, BF), tl.arange(0, BI)
    mask, i_mask = f < width, i < features

    rate = lr * tl.sigmoid(tl.load(gates + 2 * n).to(tl.float32) + tl.load(write_bias + h))
    kept = 1.0
    if decay_bias is not None:
        decay = _softplus(tl.load(gates + 2 * n + 1).to(tl.float32) + tl.load(decay_bias + h))
        kept = tl.exp(-tl.exp(tl.load(log_decay_scale + h)) * decay)

    q_f = tl.load(q + n * width + f, mask=mask, other=0.0).to(tl.float32)
    k_f = tl.load(k + n * width + f, mask=mask, other=0.0).to(tl.float32)
    v_f = tl.load(v + n * width + f, mask=mask, other=0.0).to(tl.float32)
    q_size = tl.rsqrt(tl.sum(q_f * q_f, 0) / width + 1e-6)
    k_size = tl.rsqrt(tl.sum(k_f * k_f, 0) / width + 1e-6)
    v_size = tl.rsqrt(tl.sum(v_f * v_f, 0) / width + 1e-6)
    q_f, k_f = q_f * q_size, k_f * k_size
    share = 0.0
    if HORIZON > 0:
        count = tl.minimum(tl.load(frames + b) + 1, HORIZON)
        share = 1.0 / count.to(tl.float32)
        m_f = tl.load(mean + n * width + f, mask=mask, other=0.0)
        m_f += share * (k_f - m_f)
        q_f, k_f = q_f - m_f, k_f - m_f
        if is_first:
            tl.store(mean_after + n * width + f, m_f, mask=mask)
            tl.store(frames_after + b, count)
    elif is_first:
        tl.store(mean_after + n * width + f, tl.load(mean + n * width + f, mask=mask), mask=mask)
        tl.store(frames_after + b, tl.load(frames + b))
    spanning_q = _spanning(q_f, queries, conv_q, head, row, f, mask, width, W, 0)
    spanning_k = _spanning(k_f, keys, conv_k, head, row, f, mask, width, W, L)
    if is_first & (head >= 0):
        _remember(q_f, queries, queries_after, row, f, mask, width, W - 1)
        _remember(k_f, keys, keys_after, row, f, mask, width, W - 1 + L)

    present_q, present_k = tl.sum(spanning_q * spanning_q, 0) / width, tl.sum(spanning_k * spanning_k, 0) / width
    bias = tl.load(slow_bias + h * features + i, mask=i_mask, other=0.0)
    hidden_q, hidden_k = bias, bias
    for first in range(0, width, BX):
        x = first + tl.arange(0, BX)
        x_mask = x < width
        q_x = q_size * tl.load(q + n * width + x, mask=x_mask, other=0.0).to(tl.float32)
        k_x = k_size * tl.load(k + n * width + x, mask=x_mask, other=0.0).to(tl.float32)
        if HORIZON > 0:
            m_x = tl.load(mean + n * width + x, mask=x_mask, other=0.0)
            m_x += share * (k_x - m_x)
            q_x, k_x = q_x - m_x, k_x - m_x
        q_x = _spanning(q_x, queries, conv_q, head, row, x, x_mask, width, W, 0)
        k_x = _spanning(k_x, keys, conv_k, head, row, x, x_mask, width, W, L)
        weight = tl.load(
            slow_weight + (h * width + x[:, None]) * features + i[None, :],
            mask=x_mask[:, None] & i_mask[None, :], other=0.0,
        )  # fmt: skip
        hidden_q += tl.sum(q_x[:, None] * weight, 0) * tl.rsqrt(present_q + 1e-6)
        hidden_k += tl.sum(k_x[:, None] * weight, 0) * tl.rsqrt(present_k + 1e-6)
    phi_q = hidden_q * tl.sigmoid(1.5957691216057308 * hidden_q * (1.0 + 0.044715 * hidden_q * hidden_q))
    phi_k = hidden_k * tl.sigmoid(1.5957691216057308 * hidden_k * (1.0 + 0.044715 * hidden_k * hidden_k))
    phi_q, phi_k = tl.where(i_mask, phi_q, 0.0), tl.where(i_mask, phi_k, 0.0)
    phi_q *= tl.rsqrt(tl.sum(phi_q * phi_q, 0) + 1e-6) * present_q / (present_q + 1e-6)
    phi_k *= tl.rsqrt(tl.sum(phi_k * phi_k, 0) + 1e-6) * present_k / (present_k + 1e-6)

    gate = 1.0
    if gate_bias is not None:
        g = tl.arange(0, BH)[:, None]
        g_mask = (g >= SAME) & (g < heads)
        every = (b * heads + g) * width + f[None, :]
        every_mask = g_mask & mask[None, :]
        values = tl.load(v + every, mask=every_mask, other=0.0).to(tl.float32)
        values *= tl.rsqrt(tl.sum(values * values, 1) / width + 1e-6)[:, None]
        if value_mean is not None:
            logits = tl.load(gates + 2 * (b * heads + g), mask=g_mask, other=0.0).to(tl.float32)
            logits += tl.load(write_bias + g, mask=g_mask, other=0.0)
            means = tl.load(value_mean + every, mask=every_mask, other=0.0)
            values -= means + share * (tl.where(lr * tl.sigmoid(logits) > 0, values, 0.0) - means)
        said = tl.load(answer + every, mask=every_mask, other=0.0)
        sizes = tl.maximum(tl.sqrt(tl.sum(values * values, 1)), 1e-4) * tl.maximum(
            tl.sqrt(tl.sum(said * said, 1)), 1e-4
        )
        agreement = tl.sum(tl.sum(values * said, 1) / sizes, 0) / (heads - SAME)
        gate = tl.sigmoid(tl.load(gate_bias + h) + tl.load(gate_scale + h) * agreement)

    for block in range(BLOCKS):
        c = (tl.program_id(1) * BLOCKS + block) * BC + tl.arange(0, BC)
        c_mask = c < width
        value = v_size * tl.load(v + n * width + c, mask=c_mask, other=0.0).to(tl.float32)
        if value_mean is not None:
            mean_c = tl.load(value_mean + n * width + c, mask=c_mask, other=0.0)
            mean_c += share * (tl.where(rate > 0, value, 0.0) - mean_c)
            value -= mean_c
            tl.store(value_mean_after + n * width + c, mean_c, mask=c_mask)
        offsets = (n * features + i[:, None]) * width + c[None, :]
        offsets_mask = i_mask[:, None] & c_mask[None, :]
        S = kept * tl.load(fast + offsets, mask=offsets_mask, other=0.0)
        error = value - tl.sum(S * phi_k[:, None], 0)
        S += phi_k[:, None] * (rate * error)[None, :]
        tl.store(fast_after + offsets, S, mask=offsets_mask)
        found = tl.sum(S * phi_q[:, None], 0)
        if answer is not None:
            tl.store(answer_after + n * width + c, found, mask=c_mask)
        found *= gate
        if value_mean is not None:
            found += mean_c * tl.load(mean_scale + h * width + c, mask=c_mask, other=0.0)
        found *= tl.load(answer_scale + h * width + c, mask=c_mask, other=0.0)
        tl.store(z + n * width + c, found, mask=c_mask)
