"""Convolutions of few positions as products equal torch's own; all others are torch's own."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_moshi_ttt.codec.pretrained_codec import load_codec
from hf_moshi_ttt.live.frame_convolutions import FrameConv1d, FrameConvTranspose1d, use_products
from hf_moshi_ttt.live.mimi_stream import MimiStream


def both(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A convolution, and the same as a product."""
    product: Any = type(module)(**arguments(module)).double()
    product.load_state_dict(module.double().state_dict())
    use_products(product)
    return module, product


def arguments(module: Any) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "dilation")
    return {name: getattr(module, name) for name in names} | {"bias": module.bias is not None}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (16, 8, 1), (7, 1, 1), (3, 1, 2), (5, 7, 1)])
@pytest.mark.parametrize("extra", [0, 1, 40])
def test_convolutions(
    kernel: int, stride: int, dilation: int, bias: bool, extra: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, product = both(nn.Conv1d(5, 6, kernel, stride, dilation=dilation, bias=bias))
    assert type(product) is FrameConv1d
    x = torch.randn(3, 5, (kernel - 1) * dilation + 1 + extra, dtype=torch.float64)
    expected = own(x)
    if expected.shape[-1] <= 32:
        monkeypatch.setattr(nn.Conv1d, "_conv_forward", None)
    torch.testing.assert_close(product(x), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (16, 8), (4, 2), (7, 3), (3, 5)])
@pytest.mark.parametrize("positions", [1, 2, 5, 33])
def test_transposed_convolutions(
    kernel: int, stride: int, bias: bool, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, product = both(nn.ConvTranspose1d(5, 6, kernel, stride, bias=bias))
    assert type(product) is FrameConvTranspose1d
    x = torch.randn(3, 5, positions, dtype=torch.float64)
    expected = own(x)
    if positions <= 32:
        monkeypatch.setattr(nn.ConvTranspose1d, "forward", None)
    torch.testing.assert_close(product(x), expected)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 4, 3, groups=2),
        nn.Conv1d(4, 4, 3, padding=1),
        nn.ConvTranspose1d(4, 4, 4, 2, groups=4),
        nn.ConvTranspose1d(4, 4, 4, 2, padding=1),
        nn.ConvTranspose1d(4, 4, 4, 2, dilation=2),
        nn.ConvTranspose1d(4, 4, 4, 2, output_padding=1),
    ],
)
def test_other_convolutions_stay(module: nn.Module) -> None:
    kind = type(module)
    use_products(nn.Sequential(module))
    assert type(module) is kind


def test_a_stream_of_mimi_has_products_of_the_same_weights(mimi_path: str) -> None:
    codec = load_codec(mimi_path)
    modules = list(MimiStream(codec, 1, 8).mimi.modules())
    kinds = {type(module) for module in modules}
    assert FrameConv1d in kinds and FrameConvTranspose1d in kinds and nn.Conv1d not in kinds
    owned = {parameter.data_ptr() for parameter in codec.parameters()}
    assert all(module.weight.data_ptr() in owned for module in modules if isinstance(module, FrameConv1d))
