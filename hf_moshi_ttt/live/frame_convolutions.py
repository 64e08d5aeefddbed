"""Convolutions over the few positions of one frame as matrix products, for streams on CPUs.

torch's own convolutions on CPUs rearrange their weights at each call, or walk over them in an order that is not theirs.
Over a whole recording that is nothing; over the one or two positions that a wide layer has in a frame it is most of the
time. A product reads every weight once, as it lies.

Axes: B batch, C channels in, O channels out, K width of the kernel, T positions.
"""

import torch.nn.functional as F
from torch import Tensor, nn

_FEW_POSITIONS = 32


class FrameConv1d(nn.Conv1d):
    """`nn.Conv1d` that is one product where few positions come out."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        """As `nn.Conv1d`: `[B, O, T']`."""
        (stride,), (dilation,), (kernel,) = self.stride, self.dilation, self.kernel_size
        reach = (kernel - 1) * dilation + 1
        positions = (x_BCT.shape[-1] - reach) // stride + 1
        if x_BCT.device.type != "cpu" or not 0 < positions <= _FEW_POSITIONS:
            return super().forward(x_BCT)
        windows_BCTK = x_BCT.unfold(-1, reach, stride)[..., ::dilation]
        columns = windows_BCTK.transpose(1, 2).flatten(2)
        return F.linear(columns, self.weight.flatten(1), self.bias).transpose(1, 2)


class FrameConvTranspose1d(nn.ConvTranspose1d):
    """`nn.ConvTranspose1d` that is one product, and its overlaps added, where few positions go in."""

    def forward(self, x_BCT: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As `nn.ConvTranspose1d`: `[B, O, (T - 1) * stride + K]`."""
        (stride,), (kernel,), positions = self.stride, self.kernel_size, x_BCT.shape[-1]
        if x_BCT.device.type != "cpu" or positions > _FEW_POSITIONS or output_size is not None:
            return super().forward(x_BCT, output_size)
        columns = (x_BCT.transpose(1, 2) @ self.weight.flatten(1)).transpose(1, 2)
        length = (positions - 1) * stride + kernel
        y_BOT = F.fold(columns, (1, length), (1, kernel), stride=(1, stride))[:, :, 0]
        return y_BOT if self.bias is None else y_BOT + self.bias[:, None]


def use_products(module: nn.Module) -> None:
    """Makes the convolutions inside `module` that have no groups and no padding those above, with the same weights."""
    for child in module.modules():
        if type(child) is nn.Conv1d and child.groups == 1 and child.padding == (0,):
            child.__class__ = FrameConv1d
        elif type(child) is nn.ConvTranspose1d and child.groups == 1 and _is_plain(child):
            child.__class__ = FrameConvTranspose1d


def _is_plain(child: nn.ConvTranspose1d) -> bool:
    return child.padding == (0,) and child.output_padding == (0,) and child.dilation == (1,)
