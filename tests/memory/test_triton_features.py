"""What kernels make of frames equals torch: sizes, x U + b, the GELU and its slope, factors of pairs."""

import pytest
import torch
import torch.nn.functional as F

from hf_moshi_ttt.memory import triton_features
from hf_moshi_ttt.memory.optional_triton import jit, tl, triton

pytestmark = pytest.mark.skipif(triton is None, reason="triton is not installed")
LENGTH, WIDTH, FEATURES = 5, 20, 18
_sizes, _hidden, _pairs = triton_features.frame_sizes, triton_features.hidden_frames, triton_features.pair_factors
_gelu, _slope = triton_features.gelu, triton_features.gelu_slope


@jit
def _features_kernel(
    x, weight, bias, present, hidden, phi, slope, length, width, features, C: tl.constexpr, BF: tl.constexpr
):  # fmt: skip
    t, i = tl.arange(0, C), tl.arange(0, BF)
    size, found = _sizes(x, 0, t, length, width, BF)
    tl.store(present + t, found, mask=t < length)
    y = _hidden(x, size, weight, bias, 0, 0, t, i, length, width, features, C, 16, BF, "ieee")
    offsets, mask = t[:, None] * features + i[None, :], (t[:, None] < length) & (i[None, :] < features)
    tl.store(hidden + offsets, y, mask=mask)
    tl.store(phi + offsets, _gelu(y), mask=mask)
    tl.store(slope + offsets, _slope(y), mask=mask)


@jit
def _pairs_kernel(log_retention, write, factor, kept, decay, pairs, length, C: tl.constexpr):
    t = tl.arange(0, C)
    found_kept, found_decay, _, found_pairs = _pairs(log_retention, write, tl.load(factor + t), 0, t, length, C)
    tl.store(kept + t, found_kept)
    tl.store(decay + t[:, None] * C + t[None, :], found_decay)
    tl.store(pairs + t[:, None] * C + t[None, :], found_pairs)


def test_features_equal_those_of_torch() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(LENGTH, WIDTH), torch.randn(WIDTH, FEATURES), torch.randn(FEATURES)
    present, (hidden, phi, slope) = torch.empty(LENGTH), (torch.empty(LENGTH, FEATURES) for _ in range(3))
    _features_kernel[(1,)](x, weight, bias, present, hidden, phi, slope, LENGTH, WIDTH, FEATURES, 16, 32)
    true = (F.rms_norm(x, (WIDTH,), eps=1e-6) @ weight + bias).requires_grad_()
    true_phi = F.gelu(true, approximate="tanh")
    torch.testing.assert_close(present, x.square().mean(1))
    for found, truth in ((hidden, true), (phi, true_phi), (slope, torch.autograd.grad(true_phi.sum(), true)[0])):
        torch.testing.assert_close(found, truth.detach(), rtol=1e-5, atol=1e-5)


def test_factors_of_pairs_equal_those_of_torch() -> None:
    torch.manual_seed(0)
    log_retention, write, factor = -torch.rand(LENGTH), torch.rand(LENGTH), torch.rand(16)
    kept, decay, pairs = torch.empty(16), torch.empty(16, 16), torch.empty(16, 16)
    _pairs_kernel[(1,)](log_retention, write, factor, kept, decay, pairs, LENGTH, 16)
    log_kept = F.pad(log_retention, (0, 16 - LENGTH)).cumsum(0)
    true = (log_kept[:, None] - log_kept).exp().tril()
    torch.testing.assert_close(kept, log_kept.exp())
    torch.testing.assert_close(decay, true)
    torch.testing.assert_close(pairs, true * F.pad(write, (0, 16 - LENGTH)) * factor)
