"""The Triton front end equals the one in torch, with the mean of the values, all gradients and any past."""

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import front_end_kernels, triton_front_end
from hf_moshi_ttt.memory.front_end import FrontEndState, Span

pytestmark = pytest.mark.skipif(triton_front_end.triton is None, reason="triton is not installed")
ROWS, HEADS = 2, 2


def make_case(frames: int, width: int, span: Span, has_mean: bool, device: str = "cpu") -> tuple[Any, ...]:
    """Row 0 is fresh, row 1 has heard 5 frames; a frame of row 0 is not written."""
    generator = torch.Generator().manual_seed(frames)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    kept = HEADS - span.same_frame_heads
    q, k, v = (random(ROWS, HEADS, frames, width) for _ in range(3))
    write = random(ROWS, HEADS, frames).detach().sigmoid()
    write[0, :, frames // 2] = 0
    past = span.width - 1
    before = random(ROWS, kept, past, width), random(ROWS, kept, past + span.lag, width), random(ROWS, HEADS, width)
    state = FrontEndState(*before, frames=torch.tensor([0, 5], device=device))
    value_mean = random(ROWS, HEADS, width) if has_mean else None
    for mean in (state.mean, value_mean):
        if mean is not None:
            mean.data[0] = 0  # as nothing was heard
    weights = tuple(random(kept, width, span.width) for _ in range(2 if span.width > 1 else 0))
    return (q, k, v, write), state, value_mean, weights, span


def with_gradients(form: Any, case: tuple[Any, ...]) -> dict[str, Tensor]:
    (q, k, v, _), state, value_mean, weights, _ = case
    out = form(*case)
    named = {"q": out.q, "k": out.k, "v": out.v, "means": out.means, "value_mean": out.value_mean}
    named |= {name: x for name, x in out.state.named_tensors().items() if name != "frames"}
    named = {name: x for name, x in named.items() if x is not None and x.numel()}
    leaves = {"dq": q, "dk": k, "dv": v, "dqueries": state.queries, "dkeys": state.keys, "dmean": state.mean}
    leaves |= {} if value_mean is None else {"dvalue_mean": value_mean}
    leaves |= {f"dweight{i}": x for i, x in enumerate(weights)}
    leaves = {name: x for name, x in leaves.items() if x.numel()}
    total = sum(((i + 1) * x.sin()).sum() for i, x in enumerate(named.values()))
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    found = {**named, **dict(zip(leaves, grads, strict=True)), "frames": out.state.frames}
    return {name: x[1] if name in ("dmean", "dvalue_mean") else x for name, x in found.items()}  # row 0 had no mean


CASES = [
    (1, Span(4, 1, 1500, 0), True),
    (3, Span(4, 1, 7, 1), True),
    (37, Span(4, 1, 9, 0), True),
    (33, Span(2, 0, 1500, 1), False),
    (5, Span(1, 1, 0, 1), False),
    (2, Span(1, 0, 3, 0), True),
    (34, Span(3, 0, 0, 2), False),
]


@pytest.mark.parametrize(("frames", "span", "has_mean"), CASES, ids=str)
def test_kernels_equal_torch_with_gradients(frames: int, span: Span, has_mean: bool) -> None:
    case = make_case(frames, 6, span, has_mean)
    own, true = (with_gradients(form, case) for form in (front_end_kernels._triton_form, front_end_kernels._torch_form))
    assert own.keys() == true.keys()
    for name, truth in true.items():
        torch.testing.assert_close(own[name], truth, rtol=2e-5, atol=2e-5, msg=lambda text, name=name: name + text)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_width_on_a_gpu() -> None:
    case = make_case(750, 128, Span(4, 1, 1500, 1), True, "cuda")
    own, true = (with_gradients(form, case) for form in (front_end_kernels._triton_form, front_end_kernels._torch_form))
    for name, truth in true.items():
        torch.testing.assert_close(own[name], truth, rtol=1e-3, atol=1e-3, msg=lambda text, name=name: name + text)
