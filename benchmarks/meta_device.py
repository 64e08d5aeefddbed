"""The model on the meta device as it would run on a GPU: attention and RMS norm in one kernel each way, bfloat16.

torch takes an RMS norm apart into six operations everywhere but on GPUs, where `aten::_fused_rms_norm` is one kernel.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

Module = TypeVar("Module", bound=torch.nn.Module)


@torch.library.custom_op("hf_moshi_ttt_counted::attention", mutates_args=())
def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise NotImplementedError("counted on the meta device only")


@torch.library.custom_op("hf_moshi_ttt_counted::attention_backward", mutates_args=())
def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError("counted on the meta device only")


@_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty_like(q)


@_attention_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class _Attention(torch.autograd.Function):
    """One kernel each way, as on a GPU with flash attention."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        return _attention(q, k, v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return _attention_backward(grad, *ctx.saved_tensors)


@torch.library.custom_op("hf_moshi_ttt_counted::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor | None) -> Tensor:
    raise NotImplementedError("counted on the meta device only")


@torch.library.custom_op("hf_moshi_ttt_counted::rms_norm_backward", mutates_args=())
def _rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    raise NotImplementedError("counted on the meta device only")


@torch.library.custom_op("hf_moshi_ttt_counted::rms_norm_weight_backward", mutates_args=())
def _rms_norm_weight_backward(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    raise NotImplementedError("counted on the meta device only")


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor | None) -> Tensor:
    return torch.empty_like(x)


@_rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor | None) -> Tensor:
    return torch.empty_like(x)


@_rms_norm_weight_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(weight)


class _RMSNorm(torch.autograd.Function):
    """One kernel each way, and one more for a weight that is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _rms_norm(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        is_trained = weight is not None and ctx.needs_input_grad[1]
        return _rms_norm_backward(grad, x, weight), _rms_norm_weight_backward(grad, x, weight) if is_trained else None


@contextlib.contextmanager
def as_a_gpu_runs() -> Iterator[None]:
    """Autocast, which the meta device lacks, attention and RMS norm."""
    real = torch.autocast

    def autocast(device_type: str, *rest: Any, **options: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else real(device_type, *rest, **options)

    def attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
        return _Attention.apply(q, k, v)

    def rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        assert weight is None or weight.dtype == x.dtype, "with two dtypes it is no single kernel"
        return _RMSNorm.apply(x, weight)

    with (
        mock.patch.object(torch, "autocast", autocast),
        mock.patch.object(F, "scaled_dot_product_attention", attention),
        mock.patch.object(F, "rms_norm", rms_norm),
    ):
        yield


def half(model: Module) -> Module:
    """The model in bfloat16, with what it keeps in float32."""
    for name, parameter in model.named_parameters():
        if "learner" not in name and "ttt_gate" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model
