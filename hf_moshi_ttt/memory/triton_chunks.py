# mypy: disable-error-code="no-untyped-def"
"""`prepared_chunks` of `chunks.py` in Triton for one slow layer: one kernel, and one for its backward pass.

A program prepares one chunk of one row and head. It makes the features of the chunk's queries and keys block by block
from x U + b, so that they reach memory only as what the chunk is walked with; the triangular system is solved by the
inverse of its matrix, row by row. The gradients of the slow layer are two matrix products of torch over all frames.

Legend: B batch, H heads, N = B * H, T frames, M chunks, C frames of a chunk, F head width, I width of the features.
"""

from __future__ import annotations  # the kernels name types of Triton

from typing import Any

import torch
from torch import Tensor

from ..transformer.first_derivative import first_derivative_only
from .chunks import CHUNK_FRAMES, Chunks
from .online import OnlineTokens, SlowLayer
from .optional_triton import jit, tl, triton
from .triton_chunks_back import backward_kernel
from .triton_features import frame_sizes, gelu, hidden_frames, pair_factors

_BLOCK = 32  # features and channels at once: operands of more do not fit the registers of a warp
_WARPS = 4
_PRECISION = "tf32x3"


def triton_prepared_chunks(slow_layer: SlowLayer, tokens: OnlineTokens) -> Chunks:
    """All chunks of float32 frames at once, with gradients."""
    return Chunks(*_Prepare.apply(*tokens, *slow_layer)[:6])


class _Prepare(torch.autograd.Function):
    """The tensors of `Chunks`, and the inverse `[N, M, C, C]` of each triangular system, without gradient."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = [x.contiguous() for x in tensors]
        (batch, heads, length, width), features = tensors[0].shape, tensors[5].shape[-1]
        shape = batch * heads, -(-length // CHUNK_FRAMES), CHUNK_FRAMES
        widths = width, features, features, features, CHUNK_FRAMES, CHUNK_FRAMES
        values, readers, queries, keys, mixing, inverse = (given[0].new_empty(*shape, size) for size in widths)
        kept = given[0].new_empty(shape[:2])
        found = values, readers, queries, keys, mixing, kept, inverse
        launch(_forward_kernel, shape[:2], (*given, *found), (length, heads, width, features))
        ctx.save_for_backward(*given, values, readers, inverse)
        ctx.mark_non_differentiable(inverse)
        return found

    @staticmethod
    @first_derivative_only("Triton kernels", "set use_memory_kernel('torch')")
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        *given, values, readers, inverse = ctx.saved_tensors
        q, _, _, log_retention, write, weight, bias = given
        batch, heads, length, width = q.shape
        frames = [torch.empty_like(x) for x in (q, q, q, log_retention, write)]
        rows = heads, 2 * batch * values.shape[1] * CHUNK_FRAMES  # of queries, then keys, row by row of the batch
        normed, hidden = (q.new_empty(*rows, size) for size in (width, weight.shape[-1]))
        tensors = (*given[:2], *given[3:], values, readers, inverse, *(x.contiguous() for x in grads[:6]), *frames)
        sizes = length, heads, width, weight.shape[-1]
        launch(backward_kernel, values.shape[:2], (*tensors, normed, hidden), sizes)
        return (*frames, torch.bmm(normed.mT, hidden), hidden.sum(1, keepdim=True).view_as(bias))


def launch(kernel: Any, grid: tuple[int, ...], tensors: tuple[Tensor, ...], sizes: tuple[int, int, int, int]) -> None:
    """Starts a kernel for rows and chunks `grid`, of T frames, H heads, F channels and I features."""
    width, features = (max(16, triton.next_power_of_2(x)) for x in sizes[2:])
    constants = CHUNK_FRAMES, width, min(_BLOCK, width), min(_BLOCK, features), _PRECISION
    kernel[tuple(grid)](*tensors, *sizes, *constants, num_warps=_WARPS, num_stages=1)


@jit
def _inverse_of_unit_lower(below, C: tl.constexpr):
    """(1 + below)^-1 of a strictly lower triangle, by rows."""
    c = tl.arange(0, C)
    found = tl.where(c[:, None] == c[None, :], 1.0, 0.0)
    for i in range(1, C):
        row = tl.sum(tl.where(c[:, None] == i, below, 0.0), 0)
        new = tl.sum(tl.where(c[:, None] < i, row[:, None] * found, 0.0), 0)
        found -= tl.where(c[:, None] == i, new[None, :], 0.0)
    return found


@jit
def _forward_kernel(
    q, k, v, log_retention, write, weight, bias, values, readers, queries, keys, mixing, kept, inverse,
    length, heads, width, features,
    C: tl.constexpr, BF: tl.constexpr, BX: tl.constexpr, BI: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk: its features, raw, where queries and keys are going to be; its pairs of frames; what is walked."""
    n, m = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, chunk = n % heads, n * tl.num_programs(1) + m
    c = tl.arange(0, C)
    t = m * C + c
    size_q, present_q = frame_sizes(q, n, t, length, width, BF)
    size_k, present_k = frame_sizes(k, n, t, length, width, BF)
    square_q, square_k = tl.zeros_like(present_q), tl.zeros_like(present_k)
    kk, qk = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for first in range(0, features, BI):
        i = first + tl.arange(0, BI)
        wide, wide_mask = (chunk * C + c[:, None]) * features + i[None, :], (c[:, None] >= 0) & (i[None, :] < features)
        slow = weight, bias, n, head, t, i, length, width, features
        phi_q = gelu(hidden_frames(q, size_q, *slow, C, BX, BI, PRECISION))
        phi_k = gelu(hidden_frames(k, size_k, *slow, C, BX, BI, PRECISION))
        tl.store(queries + wide, phi_q, mask=wide_mask)
        tl.store(keys + wide, phi_k, mask=wide_mask)
        square_q += tl.sum(phi_q * phi_q, 1)
        square_k += tl.sum(phi_k * phi_k, 1)
        qk += tl.dot(phi_q, tl.trans(phi_k), input_precision=PRECISION)
        kk += tl.dot(phi_k, tl.trans(phi_k), input_precision=PRECISION)
    factor_q = tl.rsqrt(square_q + 1e-6) * present_q / (present_q + 1e-6)
    factor_k = tl.rsqrt(square_k + 1e-6) * present_k / (present_k + 1e-6)
    kept_c, _, _, pairs = pair_factors(log_retention, write, factor_k, n, t, length, C)
    below = tl.where(c[:, None] > c[None, :], kk * pairs * factor_k[:, None], 0.0)
    solver = _inverse_of_unit_lower(below, C)
    square = (chunk * C + c[:, None]) * C + c[None, :]
    tl.store(inverse + square, solver)
    tl.store(mixing + square, qk * pairs * factor_q[:, None])
    tl.store(kept + chunk, tl.sum(tl.where(c == C - 1, kept_c, 0.0), 0))
    for first in range(0, width, BX):
        f = first + tl.arange(0, BX)
        mask = (t[:, None] < length) & (f[None, :] < width)
        v_t = tl.load(v + (n * length + t[:, None]) * width + f[None, :], mask=mask, other=0.0)
        solved = tl.dot(solver, v_t, input_precision=PRECISION)
        narrow_mask = (c[:, None] >= 0) & (f[None, :] < width)
        tl.store(values + (chunk * C + c[:, None]) * width + f[None, :], solved, mask=narrow_mask)
    written = tl.sum(tl.where(c[:, None] == C - 1, pairs, 0.0), 0)
    tl.debug_barrier()  # what was stored is read by other threads of this program
    for first in range(0, features, BI):
        i = first + tl.arange(0, BI)
        wide, wide_mask = (chunk * C + c[:, None]) * features + i[None, :], (c[:, None] >= 0) & (i[None, :] < features)
        phi_q = tl.load(queries + wide, mask=wide_mask, other=0.0)
        phi_k = tl.load(keys + wide, mask=wide_mask, other=0.0)
        reader = tl.dot(solver, phi_k * (kept_c * factor_k)[:, None], input_precision=PRECISION)
        tl.store(queries + wide, phi_q * (kept_c * factor_q)[:, None], mask=wide_mask)
        tl.store(keys + wide, phi_k * written[:, None], mask=wide_mask)
        tl.store(readers + wide, reader, mask=wide_mask)
