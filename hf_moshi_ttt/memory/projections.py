"""The linear maps, norms and lists of parameters that TTT layers are built of, and the dtype they compute in."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

_OPEN_GATE_LOGIT = 2.0


def inner_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of memories: float32, or the given one where it is more exact."""
    return dtype if dtype == torch.float64 else torch.float32


def fp32(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x.to(inner_dtype(x.dtype))


def require_step(inner_lr_scale: float) -> None:
    """Raises ValueError where inner steps would go the wrong way or nowhere."""
    if not 0 <= inner_lr_scale < math.inf:
        raise ValueError(f"inner_lr_scale={inner_lr_scale!r}, but it must be a number, 0 or more.")


class TTTProjection(nn.Linear):
    """A linear layer that starts as N(0, std) with zero bias."""

    def __init__(self, in_features: int, out_features: int, std: float, bias: bool = False) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values; torch calls it when the layer is made."""
        init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            init.zeros_(self.bias)


class WideLayerNorm(nn.LayerNorm):
    """A layer norm computed in float32 at least, whatever its weights are stored in."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        return F.layer_norm(x, self.normalized_shape, fp32(self.weight), fp32(self.bias), self.eps)


class InnerParameters(nn.ParameterList):
    """Parameters that are read by calling the module, which loads them where they are offloaded to memory or disk."""

    __call__ = nn.Module.__call__

    def forward(self) -> tuple[Tensor, ...]:
        """All of them, in float32 at least."""
        return tuple(fp32(parameter) for parameter in self)


class OutputGate(nn.Module):
    """A factor from 0 to 1 on each channel of the answer, from the frame; by way of a narrow layer, as in GLA."""

    def __init__(self, hidden_size: int, narrow: int) -> None:
        super().__init__()
        self.down_proj = TTTProjection(hidden_size, narrow, 1 / math.sqrt(hidden_size))
        self.up_proj = TTTProjection(narrow, hidden_size, 1 / math.sqrt(narrow), bias=True)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values: logits of unit spread around an open gate."""
        self.down_proj.reset_parameters()
        self.up_proj.reset_parameters()
        init.constant_(self.up_proj.bias, _OPEN_GATE_LOGIT)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, T, D]`, in float32 at least."""
        return torch.sigmoid(fp32(self.up_proj(self.down_proj(x_BTD))))


class TTTGate(nn.Module):
    """Scales each channel of the TTT branch by `tanh` of a trained weight."""

    def __init__(self, hidden_size: int, initial_alpha: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((hidden_size,), initial_alpha, dtype=torch.float32))

    def factor(self) -> Tensor:
        """`[D]`, in float32."""
        return torch.tanh(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        return self.factor() * x
