"""The gradients of prepared chunks in Triton equal those of torch, by everything that chunks are made of."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import triton_chunks

from .test_triton_chunks import NAMES, make_leaves, prepare, require_equal

pytestmark = pytest.mark.skipif(triton_chunks.triton is None, reason="triton is not installed")


def gradients(leaves: list[Tensor], in_triton: bool) -> dict[str, Tensor]:
    total = sum(((i + 1) * x.sin()).sum() for i, x in enumerate(prepare(leaves, in_triton).values()))
    return dict(zip(NAMES, torch.autograd.grad(total, leaves), strict=True))


@pytest.mark.parametrize(("frames", "head_dim", "width"), [(3, 4, 8), (33, 20, 40), (34, 40, 33)])
def test_gradients_equal_those_of_torch(frames: int, head_dim: int, width: int) -> None:
    single, exact = (make_leaves(frames, head_dim, width, dtype) for dtype in (torch.float32, torch.float64))
    require_equal(gradients(single, True), gradients(exact, False), 2e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_real_shapes_on_a_gpu() -> None:
    leaves = [make_leaves(250, 128, 512, dtype, "cuda") for dtype in (torch.float32, torch.float64)]
    require_equal(prepare(leaves[0], True), prepare(leaves[1], False), 1e-4)
    require_equal(gradients(leaves[0], True), gradients(leaves[1], False), 1e-4)
