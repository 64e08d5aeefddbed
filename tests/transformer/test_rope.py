"""Rotated heads as a GPU computes them equal the plain form, with gradients."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.transformer import rope
from hf_moshi_ttt.transformer.rope import apply_rope, rope_phases, rotated_heads

BATCH, HEADS, FRAMES, WIDTH = 2, 3, 5, 8


def plain_heads(projected: Tensor, phases: rope.Phases) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = projected.view(BATCH, FRAMES, 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
    return apply_rope(q, phases), apply_rope(k, phases), v


def case(dtype: torch.dtype) -> tuple[Tensor, rope.Phases]:
    torch.manual_seed(0)
    positions = torch.stack([torch.arange(FRAMES), torch.arange(FRAMES) + 10**6])
    return torch.randn(BATCH, FRAMES, 3 * HEADS * WIDTH).to(dtype), rope_phases(positions, WIDTH, 1e4)


def gradient(heads: tuple[Tensor, ...], projected: Tensor, used: range) -> Tensor:
    torch.manual_seed(1)
    factors = [torch.randn(BATCH, HEADS, FRAMES, WIDTH) for _ in heads]
    return torch.autograd.grad(sum((heads[i].float() * factors[i]).sum() for i in used), projected)[0]


@pytest.mark.parametrize("used", [range(3), range(1), range(1, 2), range(2, 3)], ids=["all", "q", "k", "v"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotated_heads_and_their_gradient_are_those_of_the_plain_form(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, used: range
) -> None:
    monkeypatch.setattr(rope, "counts_kernels", lambda _: True)
    projected, phases = case(dtype)
    projected.requires_grad_()
    heads = rotated_heads(projected, HEADS, phases)
    assert "RotatedHeads" in heads[0].grad_fn.name()  # type: ignore[union-attr]
    expected = plain_heads(projected, phases)
    for found, true in zip(heads, expected, strict=True):
        assert found.dtype == true.dtype == dtype
        torch.testing.assert_close(found, true, rtol=0, atol=0)
    found, true = (gradient(x, projected, used) for x in (heads, expected))
    assert found.abs().max() > 0
    torch.testing.assert_close(found, true)


def test_a_cpu_and_a_single_frame_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    projected, phases = case(torch.float32)
    for found, true in zip(rotated_heads(projected, HEADS, phases), plain_heads(projected, phases), strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=0)
    monkeypatch.setattr(rope, "counts_kernels", lambda _: True)
    single = rope_phases(torch.tensor([[7]]), WIDTH, 1e4)
    q, k, v = rotated_heads(projected[:, :1], HEADS, single)
    torch.testing.assert_close(q, apply_rope(projected[:, :1].view(2, 1, 3, 3, 8)[:, :, 0].transpose(1, 2), single))
    assert k.shape == v.shape == q.shape


def test_the_gradient_of_rotated_heads_has_one_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rope, "counts_kernels", lambda _: True)
    projected, phases = case(torch.float64)
    projected.requires_grad_()
    found = []
    for heads in (rotated_heads(projected, HEADS, phases), plain_heads(projected, phases)):
        (grad,) = torch.autograd.grad(sum(x.sin().sum() for x in heads), projected, create_graph=True)
        found.append([grad, *torch.autograd.grad(grad.square().sum(), projected)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
