"""The definition itself: its first steps by hand, the published equations, and the share that tells a collapse."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_moshi_ttt.memory.naive import (
    InnerNetwork,
    InnerTokens,
    inner_loss,
    inner_target,
    key_dependent_share,
    naive_ttt,
)

WIDTH, SIZE = 4, 3


def make_net(**changes: object) -> InnerNetwork:
    """One linear head without bias, layer norm without affine."""
    generator = torch.Generator().manual_seed(0)
    net = InnerNetwork(
        weights=(torch.randn(1, WIDTH, WIDTH, generator=generator, dtype=torch.float64),),
        biases=(),
        norm_weight_HF=torch.ones(1, WIDTH, dtype=torch.float64),
        norm_bias_HF=torch.zeros(1, WIDTH, dtype=torch.float64),
        position_weights_C=1 / torch.arange(1, SIZE + 1, dtype=torch.float64),
    )
    return replace(net, **changes)


def make_tokens(frames: int) -> InnerTokens:
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 1, frames, WIDTH, generator=generator, dtype=torch.float64)
    return InnerTokens(q, k, v, torch.rand(1, 1, frames, generator=generator, dtype=torch.float64))


def gradient_by_differences(net: InnerNetwork, weight: Tensor, k: Tensor, target: Tensor) -> Tensor:
    """d loss / d W entry by entry."""
    grad, step = torch.zeros_like(weight), 1e-6
    for i in range(WIDTH):
        for o in range(WIDTH):
            shift = torch.zeros_like(weight)
            shift[:, i, o] = step
            high, low = (inner_loss(net, k @ (weight + sign * shift), target).sum() for sign in (1, -1))
            grad[:, i, o] = (high - low) / (2 * step)
    return grad


def test_first_mini_batch_by_hand() -> None:
    """W_t = W_0 - c_t sum over s <= t of lr_s grad(W_0; s), the second frame's weights having both steps, halved."""
    net, tokens = make_net(), make_tokens(2)
    target = inner_target(net, tokens.k, tokens.v)
    weight, steps = net.weights[0], []
    for t in range(2):
        k, own = tokens.k[:, :, t : t + 1], target[:, :, t : t + 1]
        steps.append(tokens.lr[0, 0, t] * gradient_by_differences(net, weight, k, own))
    z, state = naive_ttt(net, tokens)
    for t, learned in enumerate((weight - steps[0], weight - (steps[0] + steps[1]) / 2)):
        q = tokens.q[:, :, t : t + 1]
        torch.testing.assert_close(z[:, :, t : t + 1], q + F.layer_norm(q @ learned, (WIDTH,), eps=1e-6))
    assert state.position.tolist() == [2] and not state.delta_weights[0].any()  # nothing is committed before it is full


def test_a_full_mini_batch_is_committed_and_forgets() -> None:
    net, tokens = make_net(), make_tokens(2 * SIZE)
    retained = naive_ttt(net, tokens)[1].delta_weights[0]
    first = naive_ttt(net, InnerTokens(*(x[:, :, :SIZE] for x in tokens)))[1].delta_weights[0]
    forgetful = naive_ttt(replace(net, retention_H=torch.tensor([0.25], dtype=torch.float64)), tokens)[1].delta_weights[
        0
    ]
    assert first.abs().max() > 0.01
    torch.testing.assert_close(forgetful, retained - 0.75 * first)


def test_targets_are_normed_by_default_and_raw_in_the_paper() -> None:
    net, tokens = make_net(), make_tokens(2)
    normed, raw = (inner_target(replace(net, normalize_target=flag), tokens.k, tokens.v) for flag in (True, False))
    torch.testing.assert_close(raw, tokens.v - tokens.k)
    torch.testing.assert_close(normed, F.layer_norm(raw, (WIDTH,), eps=1e-6))


def test_inner_loss_is_half_the_squared_distance() -> None:
    net = make_net(norm_weight_HF=torch.full((1, WIDTH), 2.0), norm_bias_HF=torch.full((1, WIDTH), 0.5))
    output, target = torch.randn(2, 1, 1, 3, WIDTH)
    expected = ((F.layer_norm(output, (WIDTH,), eps=1e-6) * 2 + 0.5 - target) ** 2).sum(-1) / 2
    torch.testing.assert_close(inner_loss(net, output, target), expected)


@pytest.mark.parametrize(("spread", "expected"), [(0.0, 0.0), (1.0, 0.5), (100.0, 1.0)])
def test_key_dependent_share_is_0_for_one_answer_and_1_for_answers_around_zero(spread: float, expected: float) -> None:
    common = torch.ones(1, 1, 1, 64)
    answers = common + spread * torch.randn(1, 1, 5000, 64, generator=torch.Generator().manual_seed(0))
    assert key_dependent_share(answers).item() == pytest.approx(expected, abs=0.01)


def test_key_dependent_share_is_unbiased_for_few_answers_and_unknown_for_one() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = 1 + torch.randn(4000, 1, 3, 8, generator=generator)
    assert key_dependent_share(answers).mean().item() == pytest.approx(0.5, abs=0.03)
    assert key_dependent_share(answers[:, :, :1]).isnan().all()
