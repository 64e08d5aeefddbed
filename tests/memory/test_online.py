"""The recurrence is one step of gradient descent a frame, and features have unit norm or none."""

import pytest
import torch

from hf_moshi_ttt.memory.online import OnlineTokens, SlowLayer, naive_online, unit_features

B, H, T, F, WIDE = 2, 3, 9, 4, 12


def make_slow(depth: int) -> list[SlowLayer]:
    torch.manual_seed(0)
    widths = [F, *[WIDE] * (depth - 1)]
    return [
        SlowLayer(torch.randn(H, i, o).double(), torch.randn(H, 1, o).double())
        for i, o in zip(widths[:-1], widths[1:], strict=True)
    ]


def make_tokens() -> OnlineTokens:
    q, k, v = torch.randn(3, B, H, T, F).double()
    return OnlineTokens(q, k, v, -torch.rand(B, H, T).double(), torch.rand(B, H, T).double())


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_each_frame_takes_one_gradient_step_on_its_own_error(depth: int) -> None:
    """From a_t S_{t-1}, at the rate b_t, on 1/2 ||S^T phi(k_t) - v_t||^2, by autograd; then it answers q_t."""
    slow, tokens = make_slow(depth), make_tokens()
    start = torch.randn(B, H, WIDE if depth > 1 else F, F).double()
    answers, found = naive_online(slow, tokens, start)
    phi_q, phi_k = (unit_features(x, slow) for x in (tokens.q, tokens.k))
    fast = start
    for t in range(T):
        fast = (tokens.log_retention[:, :, t].exp()[..., None, None] * fast).requires_grad_()
        loss = 0.5 * ((phi_k[:, :, t, None] @ fast).squeeze(2) - tokens.v[:, :, t]).square().sum()
        (grad,) = torch.autograd.grad(loss, fast)
        fast = (fast - tokens.write[:, :, t, None, None] * grad).detach()
        torch.testing.assert_close(answers[:, :, t], (phi_q[:, :, t, None] @ fast).squeeze(2))
    torch.testing.assert_close(found, fast)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_features_have_unit_norm_or_none(depth: int) -> None:
    slow, x = make_slow(depth), torch.randn(B, H, T, F).double()
    for scale, norm in ((1.0, 1.0), (1e4, 1.0), (1e-6, 0.0), (0.0, 0.0)):
        found = unit_features(scale * x, slow)
        assert found.norm(dim=-1).mean().item() == pytest.approx(norm, abs=2e-3)
        assert (found.norm(dim=-1) <= 1).all() and torch.isfinite(found).all()
    assert not unit_features(0 * x, slow).any()


def test_a_full_write_makes_the_memory_answer_with_the_value() -> None:
    slow, tokens = make_slow(2), make_tokens()
    tokens = tokens._replace(q=tokens.k, write=torch.ones_like(tokens.write))
    answers, _ = naive_online(slow, tokens, torch.randn(B, H, WIDE, F).double())
    torch.testing.assert_close(answers, tokens.v, rtol=1e-3, atol=1e-3)
