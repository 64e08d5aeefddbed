"""The model on the meta device as it would run on a GPU: attention in one kernel each way, bfloat16, no autocast."""

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


@contextlib.contextmanager
def as_a_gpu_runs() -> Iterator[None]:
    """Autocast, which the meta device lacks, and attention."""
    real = torch.autocast

    def autocast(device_type: str, *rest: Any, **options: Any) -> Any:
        return contextlib.nullcontext() if device_type == "meta" else real(device_type, *rest, **options)

    def attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
        return _Attention.apply(q, k, v)

    with (
        mock.patch.object(torch, "autocast", autocast),
        mock.patch.object(F, "scaled_dot_product_attention", attention),
    ):
        yield


def half(model: Module) -> Module:
    """The model in bfloat16, with what it keeps in float32."""
    for name, parameter in model.named_parameters():
        if "learner" not in name and "ttt_gate" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model
