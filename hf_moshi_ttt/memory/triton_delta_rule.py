# mypy: disable-error-code="no-untyped-def"
"""The delta rule on features in Triton: a kernel that walks the chunks, its backward pass, and one for a live frame.

What does not depend on the fast weights is computed before, for all chunks at once (`chunks.py`). With its notation
only this is left to be done in order, with S in float32 on the chip:

    E = U - R S;   z = Q S + P E;   S' = a S + K^T E
    dE = P^T dz + K dS';   dS = a dS' + Q^T dz - R^T dE;   da = sum of S . dS'

A program owns `_COLUMNS` columns of S of one row and head; columns do not need each other. Products are float32 in
three TF32 terms. The module loads where Triton is absent.

Legend: B batch, H heads, N = B * H, T frames, M chunks, C frames of a chunk, F head width, I width of the features.
"""

from __future__ import annotations  # the kernels name types of Triton

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..transformer.first_derivative import first_derivative_only
from .chunks import Chunks, prepared_chunks
from .online import OnlineTokens, SlowLayer, features
from .optional_triton import jit, tl, triton
from .triton_chunks import triton_prepared_chunks

_COLUMNS = 16  # tl.dot takes no fewer
_BLOCK = 64  # features whose products are one warp's, so that their operands fit its registers
_PRECISION = "tf32x3"


def triton_chunks(
    slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Answers `[B, H, T, F]` and the fast weights after all frames, with gradients.

    Args:
        fast_weights: S before the first frame, `[B, H, I, F]` float32.
    """
    shape = tokens.v.shape
    answers, after = _Walk.apply(*_chunks(slow_layers, tokens), fast_weights.flatten(0, 1))
    return answers.flatten(1, 2)[:, : shape[2]].reshape(shape), after.view(fast_weights.shape)


def triton_single_frame(
    slow_layers: Sequence[SlowLayer], tokens: OnlineTokens, fast_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The same for T = 1 without gradients: each fast weight is read and written once."""
    _, _, width, columns = shape = fast_weights.shape
    phi, factor = features(torch.cat([tokens.q, tokens.k], dim=2), slow_layers)
    frame = [x.contiguous() for x in (phi, factor, *tokens[2:], fast_weights)]
    answers, after = torch.empty_like(frame[2]), torch.empty_like(frame[-1])
    grid = (shape[0] * shape[1], triton.cdiv(columns, _COLUMNS))
    _frame_kernel[grid](*frame, answers, after, width, columns, _power_of_two(width), _COLUMNS)
    return answers, after


def _chunks(slow_layers: Sequence[SlowLayer], tokens: OnlineTokens) -> Chunks:
    """What is walked, by one kernel where there is one slow layer."""
    if len(slow_layers) == 1:
        return triton_prepared_chunks(slow_layers[0], tokens)
    return prepared_chunks(slow_layers, tokens)


class _Walk(torch.autograd.Function):
    """Answers `[N, M, C, F]` and S `[N, I, F]` after the last chunk, of the tensors of `Chunks` and S before them."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        *chunks, fast = (x.contiguous() for x in tensors)
        values, readers = chunks[:2]
        answers, errors, after = torch.empty_like(values), torch.empty_like(values), torch.empty_like(fast)
        needs_grad = any(ctx.needs_input_grad)
        before = fast.new_empty(*readers.shape[:2], *fast.shape[1:]) if needs_grad else fast
        _launch(_walk_kernel, readers, fast, (*chunks, fast, answers, errors, before, after), needs_grad)
        if needs_grad:
            ctx.save_for_backward(*chunks[1:], errors, before)
        return answers, after

    @staticmethod
    @first_derivative_only("Triton kernels", "set use_memory_kernel('torch')")
    def backward(ctx: Any, grad_answers: Tensor, grad_after: Tensor) -> tuple[Tensor, ...]:
        readers, queries, keys, mixing, kept, errors, before = ctx.saved_tensors
        grad_answers, grad_after = grad_answers.contiguous(), grad_after.contiguous()
        grad_errors, grad_fast, grad_before = (torch.empty_like(x) for x in (grad_answers, before, grad_after))
        grad_kept = kept.new_empty(*kept.shape, -(-before.shape[-1] // _COLUMNS))  # by columns
        chunks = (readers, queries, keys, mixing, kept)
        _launch(
            _walk_back_kernel, readers, grad_after,
            (*chunks, before, grad_answers, grad_after, grad_errors, grad_fast, grad_before, grad_kept),
        )  # fmt: skip
        fast = before.flatten(0, 1).mT
        grad_readers = torch.baddbmm(fast[:, :1, :1], grad_errors.flatten(0, 1), fast, beta=0, alpha=-1)
        return (
            grad_errors,
            grad_readers.view_as(readers),
            torch.matmul(grad_answers, before.mT),
            torch.matmul(errors, grad_fast.mT),
            torch.matmul(grad_answers, errors.mT),
            grad_kept.sum(-1),
            grad_before,
        )


def _launch(kernel: Any, readers: Tensor, fast: Tensor, tensors: tuple[Tensor, ...], *flags: bool) -> None:
    (rows, chunks, frames, features), width = readers.shape, fast.shape[-1]
    grid = (rows, triton.cdiv(width, _COLUMNS))
    block = min(_BLOCK, _power_of_two(features))
    blocks = _power_of_two(features) // block
    sizes = (chunks, features, width, frames, blocks, block, _COLUMNS)
    kernel[grid](*tensors, *sizes, _PRECISION, *flags, num_warps=max(4, blocks), num_stages=1)


def _power_of_two(size: int) -> int:
    """The smallest that holds `size` and that tl.dot takes."""
    return max(16, triton.next_power_of_2(size))


@jit
def _walk_kernel(
    values, readers, queries, keys, mixing, kept, fast, answers, errors, before, after,
    num_chunks, features, width,
    C: tl.constexpr, NB: tl.constexpr, BI: tl.constexpr, BF: tl.constexpr, PRECISION: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """E, z and S for `BF` columns of a row and head; with KEEP, S before each chunk."""
    n = tl.program_id(0).to(tl.int64)
    c, f = tl.arange(0, C), tl.program_id(1) * BF + tl.arange(0, BF)
    i = tl.arange(0, NB)[:, None] * BI + tl.arange(0, BI)[None, :]
    fast_offsets, fast_mask = i[:, :, None] * width + f, (i[:, :, None] < features) & (f < width)
    wide = c[None, :, None] * features + i[:, None, :]
    wide_mask = (c[None, :, None] >= 0) & (i[:, None, :] < features)
    narrow, narrow_mask = c[:, None] * width + f[None, :], (c[:, None] >= 0) & (f[None, :] < width)
    square = c[:, None] * C + c[None, :]
    S = tl.load(fast + n * features * width + fast_offsets, mask=fast_mask, other=0.0)
    for m in range(num_chunks):
        chunk = n * num_chunks + m
        if KEEP:
            tl.store(before + chunk * features * width + fast_offsets, S, mask=fast_mask)
        R = tl.load(readers + chunk * C * features + wide, mask=wide_mask, other=0.0)
        E = tl.load(values + chunk * C * width + narrow, mask=narrow_mask, other=0.0)
        E -= tl.sum(tl.dot(R, S, input_precision=PRECISION), 0)
        tl.store(errors + chunk * C * width + narrow, E, mask=narrow_mask)
        Q = tl.load(queries + chunk * C * features + wide, mask=wide_mask, other=0.0)
        z = tl.sum(tl.dot(Q, S, input_precision=PRECISION), 0)
        P = tl.load(mixing + chunk * C * C + square)
        z += tl.dot(P, E, input_precision=PRECISION)
        tl.store(answers + chunk * C * width + narrow, z, mask=narrow_mask)
        K = tl.load(keys + chunk * C * features + wide, mask=wide_mask, other=0.0)
        S *= tl.load(kept + chunk)
        S += tl.dot(tl.permute(K, 0, 2, 1), tl.broadcast_to(E[None], NB, C, BF), input_precision=PRECISION)
    tl.store(after + n * features * width + fast_offsets, S, mask=fast_mask)


@jit
def _walk_back_kernel(
    readers, queries, keys, mixing, kept, before, grad_answers, grad_after,
    grad_errors, grad_fast, grad_before, grad_kept,
    num_chunks, features, width,
    C: tl.constexpr, NB: tl.constexpr, BI: tl.constexpr, BF: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dE of each chunk, dS' after each, dS before the first and da, for `BF` columns of a row and head."""
    n = tl.program_id(0).to(tl.int64)
    c, f = tl.arange(0, C), tl.program_id(1) * BF + tl.arange(0, BF)
    i = tl.arange(0, NB)[:, None] * BI + tl.arange(0, BI)[None, :]
    fast_offsets, fast_mask = i[:, :, None] * width + f, (i[:, :, None] < features) & (f < width)
    wide = c[None, :, None] * features + i[:, None, :]
    wide_mask = (c[None, :, None] >= 0) & (i[:, None, :] < features)
    narrow, narrow_mask = c[:, None] * width + f[None, :], (c[:, None] >= 0) & (f[None, :] < width)
    square = c[:, None] * C + c[None, :]
    dS = tl.load(grad_after + n * features * width + fast_offsets, mask=fast_mask, other=0.0)
    for step in range(num_chunks):
        chunk = n * num_chunks + num_chunks - 1 - step
        tl.store(grad_fast + chunk * features * width + fast_offsets, dS, mask=fast_mask)
        S = tl.load(before + chunk * features * width + fast_offsets, mask=fast_mask, other=0.0)
        tl.store(grad_kept + chunk * tl.num_programs(1) + tl.program_id(1), tl.sum(tl.sum(tl.sum(S * dS, 2), 1), 0))
        dz = tl.load(grad_answers + chunk * C * width + narrow, mask=narrow_mask, other=0.0)
        P = tl.load(mixing + chunk * C * C + square)
        K = tl.load(keys + chunk * C * features + wide, mask=wide_mask, other=0.0)
        dE = tl.dot(tl.trans(P), dz, input_precision=PRECISION)
        dE += tl.sum(tl.dot(K, dS, input_precision=PRECISION), 0)
        tl.store(grad_errors + chunk * C * width + narrow, dE, mask=narrow_mask)
        dS *= tl.load(kept + chunk)
        Q = tl.load(queries + chunk * C * features + wide, mask=wide_mask, other=0.0)
        dS += tl.dot(tl.permute(Q, 0, 2, 1), tl.broadcast_to(dz[None], NB, C, BF), input_precision=PRECISION)
        R = tl.load(readers + chunk * C * features + wide, mask=wide_mask, other=0.0)
        dS -= tl.dot(tl.permute(R, 0, 2, 1), tl.broadcast_to(dE[None], NB, C, BF), input_precision=PRECISION)
    tl.store(grad_before + n * features * width + fast_offsets, dS, mask=fast_mask)


@jit
def _frame_kernel(
    phi, factor, values, log_retention, write, fast, answers, after,
    features, width, BI: tl.constexpr, BF: tl.constexpr,
):  # fmt: skip
    """One frame for `BF` columns of a row and head; phi `[N, 2, I]` and its factor hold the query, then the key."""
    n = tl.program_id(0).to(tl.int64)
    i, f = tl.arange(0, BI), tl.program_id(1) * BF + tl.arange(0, BF)
    fast_offsets, fast_mask = i[:, None] * width + f[None, :], (i[:, None] < features) & (f[None, :] < width)
    S = tl.load(fast + n * features * width + fast_offsets, mask=fast_mask, other=0.0)
    S *= tl.exp(tl.load(log_retention + n))
    q = tl.load(phi + 2 * n * features + i, mask=i < features, other=0.0) * tl.load(factor + 2 * n)
    k = tl.load(phi + (2 * n + 1) * features + i, mask=i < features, other=0.0) * tl.load(factor + 2 * n + 1)
    error = tl.load(values + n * width + f, mask=f < width, other=0.0) - tl.sum(S * k[:, None], 0)
    S += k[:, None] * (tl.load(write + n) * error)[None, :]
    tl.store(answers + n * width + f, tl.sum(S * q[:, None], 0), mask=f < width)
    tl.store(after + n * features * width + fast_offsets, S, mask=fast_mask)
