# mypy: disable-error-code="no-untyped-def"
"""The backward pass of `triton_chunks.py`: one kernel, a program a chunk of a row and head.

With the inverse W of the chunk's matrix 1 + A, [U | R] = W [v | y], so that dv = W^T dU, dy = W^T dR and
dA = -(dv U^T + dy R^T) below the diagonal. The features are made again; the kernel leaves the gradient of x U + b, and
x of RMS 1, for the products that give the gradients of the slow layer.

Legend: T frames, C frames of a chunk, F head width, I width of the features.
"""

from __future__ import annotations  # the kernels name types of Triton

from .optional_triton import jit, tl
from .triton_features import frame_sizes, gelu, gelu_slope, hidden_frames, pair_factors


@jit
def _frames_back(x, found, size, grad_normed, grad_present, n, t, length, width, BF: tl.constexpr):
    """The gradient of frames by those of the frames of RMS 1 `[C, BF]` and of the mean squares."""
    f = tl.arange(0, BF)
    offsets, mask = (n * length + t[:, None]) * width + f[None, :], (t[:, None] < length) & (f[None, :] < width)
    frames = tl.load(x + offsets, mask=mask, other=0.0)
    along = size * size * tl.sum(frames * grad_normed, 1) / width
    grad = size[:, None] * (grad_normed - frames * along[:, None]) + (2.0 / width * grad_present)[:, None] * frames
    tl.store(found + offsets, grad, mask=mask)


@jit
def _keep_normed(x, size, normed, rows, n, t, length, width, BF: tl.constexpr):
    """Frames of RMS 1 in their rows; frames of zeros behind the last one."""
    f = tl.arange(0, BF)
    mask = (t[:, None] < length) & (f[None, :] < width)
    frames = tl.load(x + (n * length + t[:, None]) * width + f[None, :], mask=mask, other=0.0)
    kept = normed + rows[:, None] * width + f[None, :]
    tl.store(kept, frames * size[:, None], mask=(rows[:, None] >= 0) & (f[None, :] < width))


@jit
def backward_kernel(
    q, k, log_retention, write, weight, bias, values, readers, inverse,
    grad_values, grad_readers, grad_queries, grad_keys, grad_mixing, grad_kept,
    found_q, found_k, found_v, found_log_retention, found_write, normed, hidden,
    length, heads, width, features,
    C: tl.constexpr, BF: tl.constexpr, BX: tl.constexpr, BI: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk; `hidden` holds x U + b on the way, and its gradient at the end."""
    n, m = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunks, batch, b, head = tl.num_programs(1), tl.num_programs(0) // heads, n // heads, n % heads
    c, f = tl.arange(0, C), tl.arange(0, BF)
    t = m * C + c
    rows = (n * chunks + m) * C + c
    rows_q = ((head * batch + b) * 2 * chunks + m) * C + c
    rows_k = rows_q + chunks * C
    size_q, present_q = frame_sizes(q, n, t, length, width, BF)
    size_k, present_k = frame_sizes(k, n, t, length, width, BF)
    _keep_normed(q, size_q, normed, rows_q, n, t, length, width, BF)
    _keep_normed(k, size_k, normed, rows_k, n, t, length, width, BF)

    square_q, square_k = tl.zeros_like(present_q), tl.zeros_like(present_k)
    kk, qk = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
    for first in range(0, features, BI):
        i = first + tl.arange(0, BI)
        wide_q, wide_mask = rows_q[:, None] * features + i[None, :], (c[:, None] >= 0) & (i[None, :] < features)
        wide_k = wide_q + chunks * C * features
        slow = weight, bias, n, head, t, i, length, width, features
        hidden_q = hidden_frames(q, size_q, *slow, C, BX, BI, PRECISION)
        hidden_k = hidden_frames(k, size_k, *slow, C, BX, BI, PRECISION)
        tl.store(hidden + wide_q, hidden_q, mask=wide_mask)
        tl.store(hidden + wide_k, hidden_k, mask=wide_mask)
        phi_q, phi_k = gelu(hidden_q), gelu(hidden_k)
        square_q += tl.sum(phi_q * phi_q, 1)
        square_k += tl.sum(phi_k * phi_k, 1)
        qk += tl.dot(phi_q, tl.trans(phi_k), input_precision=PRECISION)
        kk += tl.dot(phi_k, tl.trans(phi_k), input_precision=PRECISION)
    unit_q, unit_k = tl.rsqrt(square_q + 1e-6), tl.rsqrt(square_k + 1e-6)
    factor_q, factor_k = unit_q * present_q / (present_q + 1e-6), unit_k * present_k / (present_k + 1e-6)
    kept, decay, writes, pairs = pair_factors(log_retention, write, factor_k, n, t, length, C)
    written = tl.sum(tl.where(c[:, None] == C - 1, pairs, 0.0), 0)

    square = rows[:, None] * C + c[None, :]
    solver = tl.trans(tl.load(inverse + square))
    grad_below = tl.zeros((C, C), tl.float32)
    for first in range(0, width, BX):
        x = first + tl.arange(0, BX)
        narrow, x_mask = rows[:, None] * width + x[None, :], (c[:, None] >= 0) & (x[None, :] < width)
        grad_v = tl.load(grad_values + narrow, mask=x_mask, other=0.0)
        grad_v = tl.dot(solver, grad_v, input_precision=PRECISION)
        heard = (t[:, None] < length) & (x[None, :] < width)
        tl.store(found_v + (n * length + t[:, None]) * width + x[None, :], grad_v, mask=heard)
        solved = tl.load(values + narrow, mask=x_mask, other=0.0)
        grad_below -= tl.dot(grad_v, tl.trans(solved), input_precision=PRECISION)
    along_q, along_k, along_r = tl.zeros_like(present_q), tl.zeros_like(present_q), tl.zeros_like(present_q)
    tl.debug_barrier()  # what was stored is read by other threads of this program
    for first in range(0, features, BI):
        i = first + tl.arange(0, BI)
        wide_q, wide_mask = rows_q[:, None] * features + i[None, :], (c[:, None] >= 0) & (i[None, :] < features)
        wide = rows[:, None] * features + i[None, :]
        phi_q = gelu(tl.load(hidden + wide_q, mask=wide_mask, other=0.0))
        phi_k = gelu(tl.load(hidden + wide_q + chunks * C * features, mask=wide_mask, other=0.0))
        grad_y = tl.load(grad_readers + wide, mask=wide_mask, other=0.0)
        grad_y = tl.dot(solver, grad_y, input_precision=PRECISION)
        reader = tl.load(readers + wide, mask=wide_mask, other=0.0)
        grad_below -= tl.dot(grad_y, tl.trans(reader), input_precision=PRECISION)
        along_q += tl.sum(tl.load(grad_queries + wide, mask=wide_mask, other=0.0) * phi_q, 1)
        along_k += tl.sum(tl.load(grad_keys + wide, mask=wide_mask, other=0.0) * phi_k, 1)
        along_r += tl.sum(grad_y * phi_k, 1)

    grad_below = tl.where(c[:, None] > c[None, :], grad_below, 0.0)
    grad_mixed = tl.load(grad_mixing + square)
    grad_kk, grad_qk = grad_below * pairs * factor_k[:, None], grad_mixed * pairs * factor_q[:, None]
    grad_pairs = grad_below * kk * factor_k[:, None] + grad_mixed * qk * factor_q[:, None]
    grad_pairs += tl.where(c[:, None] == C - 1, along_k[None, :], 0.0)
    grad_writes = tl.sum(grad_pairs * decay, 0)
    tl.store(found_write + n * length + t, grad_writes * factor_k, mask=t < length)
    grad_factor_k = tl.sum(grad_below * kk * pairs, 1) + along_r * kept + grad_writes * writes
    grad_factor_q = tl.sum(grad_mixed * qk * pairs, 1) + along_q * kept
    last = tl.load(grad_kept + n * chunks + m)
    grad_log = kept * (along_q * factor_q + along_r * factor_k + tl.where(c == C - 1, last, 0.0))
    grad_log += tl.sum(grad_pairs * pairs, 1) - tl.sum(grad_pairs * pairs, 0)
    grad_log = tl.sum(tl.where(c[:, None] >= c[None, :], grad_log[:, None], 0.0), 0)
    tl.store(found_log_retention + n * length + t, grad_log, mask=t < length)

    along_q, along_k = -grad_factor_q * factor_q * unit_q * unit_q, -grad_factor_k * factor_k * unit_k * unit_k
    grad_both = grad_kk + tl.trans(grad_kk)
    grad_q, grad_k = tl.zeros((C, BF), tl.float32), tl.zeros((C, BF), tl.float32)
    for first in range(0, features, BI):
        i = first + tl.arange(0, BI)
        wide_q, wide_mask = rows_q[:, None] * features + i[None, :], (c[:, None] >= 0) & (i[None, :] < features)
        slow_mask = (f[:, None] < width) & (i[None, :] < features)
        slow = tl.load(weight + (head * width + f[:, None]) * features + i[None, :], mask=slow_mask, other=0.0)
        wide_k = wide_q + chunks * C * features
        wide = rows[:, None] * features + i[None, :]
        hidden_q = tl.load(hidden + wide_q, mask=wide_mask, other=0.0)
        hidden_k = tl.load(hidden + wide_k, mask=wide_mask, other=0.0)
        phi_q, phi_k = gelu(hidden_q), gelu(hidden_k)
        grad_phi = tl.load(grad_queries + wide, mask=wide_mask, other=0.0) * (kept * factor_q)[:, None]
        grad_phi += tl.dot(grad_qk, phi_k, input_precision=PRECISION) + along_q[:, None] * phi_q
        grad_hidden = grad_phi * gelu_slope(hidden_q)
        tl.store(hidden + wide_q, grad_hidden, mask=wide_mask)
        grad_q += tl.dot(grad_hidden, tl.trans(slow), input_precision=PRECISION)
        grad_y = tl.load(grad_readers + wide, mask=wide_mask, other=0.0)
        grad_phi = tl.dot(solver, grad_y, input_precision=PRECISION) * (kept * factor_k)[:, None]
        grad_phi += tl.load(grad_keys + wide, mask=wide_mask, other=0.0) * written[:, None]
        grad_phi += tl.dot(tl.trans(grad_qk), phi_q, input_precision=PRECISION) + along_k[:, None] * phi_k
        grad_phi += tl.dot(grad_both, phi_k, input_precision=PRECISION)
        grad_hidden = grad_phi * gelu_slope(hidden_k)
        tl.store(hidden + wide_k, grad_hidden, mask=wide_mask)
        grad_k += tl.dot(grad_hidden, tl.trans(slow), input_precision=PRECISION)
    present = grad_factor_q * unit_q * 1e-6 / ((present_q + 1e-6) * (present_q + 1e-6))
    _frames_back(q, found_q, size_q, grad_q, present, n, t, length, width, BF)
    present = grad_factor_k * unit_k * 1e-6 / ((present_k + 1e-6) * (present_k + 1e-6))
    _frames_back(k, found_k, size_k, grad_k, present, n, t, length, width, BF)
