"""What TTT layers are built of starts as it says and computes in float32."""

import math

import torch

from hf_moshi_ttt.memory.projections import InnerParameters, OutputGate, TTTGate, TTTProjection, WideLayerNorm, fp32


def test_projections_start_normal_with_zero_bias() -> None:
    torch.manual_seed(0)
    linear = TTTProjection(64, 200, std=0.3, bias=True)
    assert abs(linear.weight.std().item() - 0.3) < 0.01 and not linear.bias.any()


def test_a_gate_starts_open_and_lies_between_0_and_1() -> None:
    torch.manual_seed(0)
    gate, x = OutputGate(64, 16).bfloat16(), torch.randn(2, 50, 64).bfloat16()
    found = gate(x)
    assert found.dtype == torch.float32 and found.shape == x.shape
    assert 0.75 < found.mean() < 0.95 and found.min() > 0 and found.max() < 1 and found.std() > 0.05


def test_parameters_and_norms_are_read_in_float32() -> None:
    inner = InnerParameters([torch.ones(3).bfloat16()])
    assert [x.dtype for x in inner()] == [torch.float32]
    assert fp32(torch.ones(1).double()).dtype == torch.float64
    norm = WideLayerNorm(8).bfloat16()
    assert norm(torch.randn(2, 8)).dtype == torch.float32


def test_gate_is_the_tanh_of_its_weight() -> None:
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(TTTGate(8, 0.7)(x), math.tanh(0.7) * x)
