"""The Triton kernels equal the recurrence, with gradients by everything they are given; on CPUs they are interpreted.

Interpreted products are exact float32 whatever the precision asked for: tests on CPUs show the algorithm and the
derivative, and those marked gpu real shapes and precision.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.delta_kernels import learn, use_memory_kernel
from hf_moshi_ttt.memory.online import OnlineTokens, SlowLayer, naive_online
from hf_moshi_ttt.memory.triton_delta_rule import triton as installed_triton

from ..fixtures.online_cases import make_input, make_layer, make_rule_case

pytestmark = pytest.mark.skipif(installed_triton is None, reason="triton is not installed")


def triton(*case: Any) -> tuple[Tensor, Tensor]:
    with use_memory_kernel("triton"):
        return learn(*case)


def with_gradients(form: Any, slow: list[SlowLayer], tokens: OnlineTokens, fast: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in (*tokens, *slow[0], fast)]
    answers, after = form([SlowLayer(*leaves[5:7])], OnlineTokens(*leaves[:5]), leaves[7])
    return [answers, after, *torch.autograd.grad(answers.sin().sum() + after.cos().sum(), leaves)]


def require_equal(own: list[Tensor], true: list[Tensor], tolerance: float) -> None:
    for found, truth in zip(own, true, strict=True):
        error = (found.double() - truth).abs().max() / truth.abs().max().clamp_min(1.0)
        assert error < tolerance


@pytest.mark.parametrize(("frames", "head_dim", "width"), [(2, 4, 8), (32, 4, 16), (65, 20, 130)])
def test_chunks_equal_the_recurrence(frames: int, head_dim: int, width: int) -> None:
    single, exact = (make_rule_case(frames, head_dim, width, dtype) for dtype in (torch.float32, torch.float64))
    require_equal(with_gradients(triton, *single), with_gradients(naive_online, *exact), 2e-6)


@pytest.mark.parametrize(("head_dim", "width"), [(4, 8), (20, 130)])
def test_a_live_frame_equals_the_recurrence(head_dim: int, width: int) -> None:
    single, exact = (make_rule_case(1, head_dim, width, dtype) for dtype in (torch.float32, torch.float64))
    before = single[2].clone()
    with torch.no_grad():
        require_equal(list(triton(*single)), list(naive_online(*exact)), 2e-6)
    assert torch.equal(single[2], before)


def test_frames_one_by_one_equal_the_chunks() -> None:
    slow, tokens, fast = make_rule_case(9)
    with torch.no_grad():
        whole, after, answers = *triton(slow, tokens, fast), []
        for t in range(9):
            answer, fast = triton(slow, OnlineTokens(*(x[:, :, t : t + 1] for x in tokens)), fast)
            answers.append(answer)
    torch.testing.assert_close(torch.cat(answers, dim=2), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast, after, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"ttt_mlp_layers": 1, "forget": "none"}], ids=str)
def test_a_layer_trains_through_the_kernel(options: dict[str, Any]) -> None:
    found = []
    for kernel in ("triton", "torch"):
        layer, x = make_layer(torch.float32, **options), make_input(40, dtype=torch.float32).requires_grad_()
        with use_memory_kernel(kernel):
            output = layer(x, layer(x[:, :3]).state).output
            output.square().sum().backward()
        found.append([output, x.grad, *(p.grad for p in layer.parameters() if p.grad is not None)])
    require_equal(found[0], [x.double() for x in found[1]], 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("frames", "width"), [(1, 512), (250, 128), (250, 512)])
def test_real_shapes_on_a_gpu(frames: int, width: int) -> None:
    """Against float64 on the same device; products of three TF32 terms keep about 20 bits."""
    found = []
    for dtype, form in ((torch.float32, triton), (torch.float64, naive_online)):
        slow, tokens, fast = make_rule_case(frames, 128, width, dtype)
        on_gpu = [SlowLayer(*(x.cuda() for x in slow[0]))], OnlineTokens(*(x.cuda() for x in tokens)), fast.cuda()
        found.append(with_gradients(form, *on_gpu))
    require_equal(*found, 1e-4)
