"""The Triton kernels of a layer's output equal torch, with the last answer and all gradients, for every option."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import answer_kernels, triton_answers
from hf_moshi_ttt.memory.triton_answers import AnswerParts

pytestmark = pytest.mark.skipif(triton_answers.triton is None, reason="triton is not installed")
ROWS, HEADS = 2, 3


def make_parts(frames: int, width: int, has_gate: bool, has_mean: bool, device: str = "cpu") -> AnswerParts:
    """Row 0 has no answer before; a frame of each row has none of its own, and one has no value."""
    generator = torch.Generator().manual_seed(frames)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    answers, values, means = (random(ROWS, HEADS, frames, width) for _ in range(3))
    before, scale, mean_scale = random(ROWS, HEADS, width), random(HEADS, width), random(HEADS, width)
    before.data[0] = 0
    answers.data[:, :, frames // 2] = 0
    values.data[:, 1, frames // 3] = 0
    gate = (random(HEADS), random(HEADS)) if has_gate else (None, None)
    before_or_none, mean = before if has_gate else None, (means, mean_scale) if has_mean else (None, None)
    return AnswerParts(answers, values, mean[0], before_or_none, scale, mean[1], *gate)


def with_gradients(form: Any, parts: AnswerParts, same_frame_heads: int) -> dict[str, Tensor]:
    outputs = zip(("z", "last"), form(parts, same_frame_heads), strict=True)
    named = {name: x for name, x in outputs if x is not None}
    leaves = {f"d{name}": x for name, x in parts._asdict().items() if x is not None}
    total = sum(((i + 1) * x.sin()).sum() for i, x in enumerate(named.values()))
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return {**named, **dict(zip(leaves, grads, strict=True))}


def require_equal(own: dict[str, Tensor], true: dict[str, Tensor], tolerance: float) -> None:
    assert own.keys() == true.keys()
    for name, truth in true.items():
        message = lambda text, name=name: f"{name}: {text}"  # noqa: E731
        torch.testing.assert_close(own[name], truth, rtol=tolerance, atol=tolerance, msg=message)


CASES = [(1, 4, True, True, 0), (17, 6, True, True, 1), (3, 4, True, False, 2), (2, 4, False, True, 0),
         (18, 4, False, False, 0)]  # fmt: skip


@pytest.mark.parametrize(("frames", "width", "has_gate", "has_mean", "same"), CASES)
def test_kernels_equal_torch_with_gradients(frames: int, width: int, has_gate: bool, has_mean: bool, same: int) -> None:
    parts = make_parts(frames, width, has_gate, has_mean)
    own, true = (with_gradients(form, parts, same) for form in (triton_answers.triton_outputs, torch_form()))
    require_equal(own, true, 2e-5)


def torch_form() -> Any:
    return answer_kernels._torch_form


def test_an_output_without_a_gradient_of_its_last_answer() -> None:
    parts = make_parts(3, 4, True, True)
    own, true = (form(parts, 0)[0].sin().sum() for form in (triton_answers.triton_outputs, torch_form()))
    for found, truth in zip(*(torch.autograd.grad(x, [parts.answers, parts.values]) for x in (own, true)), strict=True):
        torch.testing.assert_close(found, truth, rtol=2e-5, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_width_on_a_gpu() -> None:
    parts = make_parts(750, 128, True, True, "cuda")
    own, true = (with_gradients(form, parts, 1) for form in (triton_answers.triton_outputs, torch_form()))
    require_equal(own, true, 1e-3)
