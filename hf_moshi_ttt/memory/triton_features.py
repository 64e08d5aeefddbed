# mypy: disable-error-code="no-untyped-def"
"""The features of a chunk's frames, and the factors of its pairs of frames, inside Triton kernels.

The formulas are those of `features` in `online.py` and of `chunks.py`.

Legend: T frames, C frames of a chunk, F head width, I width of the features.
"""

from __future__ import annotations  # the kernels name types of Triton

from .optional_triton import jit, tl


@jit
def frame_sizes(x, n, t, length, width, BF: tl.constexpr):
    """The factor that gives each frame RMS 1, and its mean square."""
    f = tl.arange(0, BF)
    mask = (t[:, None] < length) & (f[None, :] < width)
    frames = tl.load(x + (n * length + t[:, None]) * width + f[None, :], mask=mask, other=0.0)
    present = tl.sum(frames * frames, 1) / width
    return tl.rsqrt(present + 1e-6), present


@jit
def hidden_frames(
    x, size, weight, bias, n, head, t, i, length, width, features,
    C: tl.constexpr, BX: tl.constexpr, BI: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """x U + b for features i, of frames t with RMS 1."""
    start = tl.load(bias + head * features + i, mask=i < features, other=0.0)
    hidden = tl.zeros((C, BI), tl.float32) + start[None, :]
    for first in range(0, width, BX):
        f = first + tl.arange(0, BX)
        mask = (t[:, None] < length) & (f[None, :] < width)
        frames = tl.load(x + (n * length + t[:, None]) * width + f[None, :], mask=mask, other=0.0)
        slow_mask = (f[:, None] < width) & (i[None, :] < features)
        slow = tl.load(weight + (head * width + f[:, None]) * features + i[None, :], mask=slow_mask, other=0.0)
        hidden += tl.dot(frames * size[:, None], slow, input_precision=PRECISION)
    return hidden


@jit
def gelu(x):
    """The tanh form."""
    return x * tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))


@jit
def pair_factors(log_retention, write, factor_k, n, t, length, C: tl.constexpr):
    """d_i, d_ij (0 for later j), what each frame writes, and d_ij times that."""
    c = tl.arange(0, C)
    log_kept = tl.cumsum(tl.load(log_retention + n * length + t, mask=t < length, other=0.0), 0)
    writes = tl.load(write + n * length + t, mask=t < length, other=0.0)
    later = c[:, None] >= c[None, :]
    decay = tl.where(later, tl.exp(tl.where(later, log_kept[:, None] - log_kept[None, :], 0.0)), 0.0)
    return tl.exp(log_kept), decay, writes, decay * (writes * factor_k)[None, :]


@jit
def gelu_slope(x):
    """The derivative of the tanh form."""
    share = tl.sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
    return share + x * share * (1.0 - share) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
