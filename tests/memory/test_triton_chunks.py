"""The Triton kernel prepares chunks as torch does; with gradients in `test_triton_chunks_back.py`."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import triton_chunks
from hf_moshi_ttt.memory.chunks import prepared_chunks
from hf_moshi_ttt.memory.online import OnlineTokens, SlowLayer

from ..fixtures.online_cases import make_rule_case

pytestmark = pytest.mark.skipif(triton_chunks.triton is None, reason="triton is not installed")
NAMES = ("q", "k", "v", "log_retention", "write", "weight", "bias")


def make_leaves(frames: int, head_dim: int, width: int, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Tokens, the first of them without a key, and a slow layer."""
    slow, tokens, _ = make_rule_case(frames, head_dim, width, dtype)
    leaves = [x.detach().clone().to(device) for x in (*tokens, *slow[0])]
    leaves[1][:, :, 0] = 0
    return [x.requires_grad_() for x in leaves]


def prepare(leaves: list[Tensor], in_triton: bool) -> dict[str, Tensor]:
    slow, tokens = SlowLayer(*leaves[5:]), OnlineTokens(*leaves[:5])
    chunks = triton_chunks.triton_prepared_chunks(slow, tokens) if in_triton else prepared_chunks([slow], tokens)
    return chunks._asdict()


def require_equal(own: dict[str, Tensor], true: dict[str, Tensor], tolerance: float) -> None:
    for name, truth in true.items():
        error = (own[name].double() - truth).abs().max() / truth.abs().max().clamp_min(1e-3)
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize(("frames", "head_dim", "width"), [(3, 4, 8), (33, 20, 40)])
def test_chunks_equal_those_of_torch(frames: int, head_dim: int, width: int) -> None:
    single, exact = (make_leaves(frames, head_dim, width, dtype) for dtype in (torch.float32, torch.float64))
    with torch.no_grad():
        require_equal(prepare(single, True), prepare(exact, False), 2e-6)


def test_equal_keys_are_solved_exactly() -> None:
    """Overlaps of 1 everywhere: the inverse is a difference of neighbours, where powers would cancel."""
    found = []
    for dtype, in_triton in ((torch.float32, True), (torch.float64, False)):
        leaves = make_leaves(32, 4, 8, dtype)
        leaves[1].data[:] = leaves[1].data[:, :, 1:2]
        leaves[3].data.zero_()
        leaves[4].data.fill_(1)
        with torch.no_grad():
            found.append(prepare(leaves, in_triton))
    require_equal(*found, 2e-5)
