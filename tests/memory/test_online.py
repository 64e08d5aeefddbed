"""The recurrence is one step of gradient descent a frame, and features have unit norm or none."""

import pytest
import torch

from hf_moshi_ttt.memory.online import AnswerGate, Learned, OnlineTokens, SlowLayer, gated, naive_online, unit_features

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
    answers, errors, found = naive_online(slow, tokens, start)
    phi_q, phi_k = (unit_features(x, slow) for x in (tokens.q, tokens.k))
    fast = start
    for t in range(T):
        fast = (tokens.log_retention[:, :, t].exp()[..., None, None] * fast).requires_grad_()
        loss = 0.5 * ((phi_k[:, :, t, None] @ fast).squeeze(2) - tokens.v[:, :, t]).square().sum()
        torch.testing.assert_close(errors[:, :, t].square().sum(), 2 * loss)
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
    answers, *_ = naive_online(slow, tokens, torch.randn(B, H, WIDE, F).double())
    torch.testing.assert_close(answers, tokens.v, rtol=1e-3, atol=1e-3)


def test_an_answer_is_as_loud_as_it_is_trusted() -> None:
    """By the mean over heads of the cosine of value and what was foreseen, each head by its own gate."""
    gate = AnswerGate(bias=torch.tensor([0.0, 2.0]), scale=torch.tensor([4.0, 1.0]))
    v, answers = torch.ones(1, 2, 3, F), torch.randn(1, 2, 3, F)
    # foreseen: what was heard by both heads; by one of them with the opposite by the other; nothing
    foreseen = torch.tensor([[1.0, 3.0, 0.0], [2.0, -1.0, 0.0]])[None, :, :, None] * v
    found = gated(Learned(answers, v - foreseen, torch.zeros(0)), v, gate)
    logits = torch.tensor([[4.0, 0.0, 0.0], [3.0, 2.0, 2.0]])
    torch.testing.assert_close(found, torch.sigmoid(logits)[:, :, None] * answers)
