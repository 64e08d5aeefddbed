"""The chunked rule equals the recurrence, with gradients by everything it is given."""

import pytest
import torch

from hf_moshi_ttt.memory.delta_rule import delta_rule
from hf_moshi_ttt.memory.online import OnlineTokens, SlowLayer, naive_online, unit_features

B, H, F, WIDE = 2, 2, 4, 8


def make_case(frames: int, dtype: torch.dtype) -> tuple[list[SlowLayer], OnlineTokens, torch.Tensor]:
    torch.manual_seed(frames)
    q, k, v = torch.randn(3, B, H, frames, F, dtype=dtype)
    k[:, :, frames // 2] = 0  # a frame without a key
    tokens = OnlineTokens(q, k, v, -torch.rand(B, H, frames, dtype=dtype) * 0.2, torch.rand(B, H, frames, dtype=dtype))
    slow = [SlowLayer(torch.randn(H, F, WIDE, dtype=dtype), torch.randn(H, 1, WIDE, dtype=dtype))]
    return slow, tokens, torch.randn(B, H, WIDE, F, dtype=dtype)


def with_gradients(form: object, slow: list[SlowLayer], tokens: OnlineTokens, fast: torch.Tensor) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in (*tokens, *slow[0], fast)]
    found = form([SlowLayer(*leaves[5:7])], OnlineTokens(*leaves[:5]), leaves[7])
    answers, after = (found[0], found[-1])
    return [answers, after, *torch.autograd.grad(answers.sin().sum() + after.cos().sum(), leaves)]


@pytest.mark.parametrize("frames", [1, 2, 63, 64, 65, 130])
def test_chunks_equal_the_recurrence(frames: int) -> None:
    case = make_case(frames, torch.float64)
    both = (with_gradients(form, *case) for form in (delta_rule, naive_online))
    for fast, naive in zip(*both, strict=True):
        torch.testing.assert_close(fast, naive, rtol=0, atol=1e-10 * max(1.0, float(naive.abs().max())))


def test_chunks_are_exact_in_float32() -> None:
    slow, tokens, fast = make_case(130, torch.float64)
    truth = naive_online(slow, tokens, fast)
    single = [SlowLayer(*(x.float() for x in slow[0]))], OnlineTokens(*(x.float() for x in tokens)), fast.float()
    found = delta_rule(*single)
    for own, true in zip((found.answers, found.fast_weights), truth, strict=True):
        torch.testing.assert_close(own.double(), true, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 80])
def test_errors_are_those_that_the_frames_found(frames: int) -> None:
    slow, tokens, fast = make_case(frames, torch.float64)
    errors, last = delta_rule(slow, tokens, fast).errors, frames - 1
    before = naive_online(slow, OnlineTokens(*(x[:, :, :last] for x in tokens)), fast)[1] if last else fast
    kept = before * tokens.log_retention[:, :, last, None, None].exp()
    seen = unit_features(tokens.k[:, :, last:], slow) @ kept
    torch.testing.assert_close(errors[:, :, last:], tokens.v[:, :, last:] - seen)
