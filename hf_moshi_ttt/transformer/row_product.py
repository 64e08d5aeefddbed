"""Linears without gradients that write where they are told: of a live frame, whose cost is the calls it makes.

`nn.Linear` turns its weight and its input around before each product. A row on a CPU that is a vector needs neither.
What has touched a linear (adapter, quantization, hook) is called as it wants to be.

Legend: N rows, I and O width in and out.
"""

from typing import Any

import torch
from torch import Tensor, nn

_TENSORS = (nn.Parameter, Tensor)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_one_row(x: Tensor) -> bool:
    """Whether `x` `[..., I]` is one row, and nothing asks more of its products than their values."""
    return (
        x.numel() == x.shape[-1]
        and x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def counts_kernels(x: Tensor) -> bool:
    """Whether what is computed of x costs the kernels it starts: off CPUs, unless a compiler puts them together."""
    return x.device.type != "cpu" and not torch.compiler.is_compiling()


def is_cast(x: Tensor) -> bool:
    """Whether autocast chooses the dtype of products of x."""
    kind = x.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def may_write(x: Tensor) -> bool:
    """Whether a step off CPUs may write into tensors that only it knows, as nothing but values is asked of it."""
    return counts_kernels(x) and not torch.is_grad_enabled() and not is_cast(x)


def is_compiled(module: Any) -> bool:
    """Whether a module is compiled by itself, so that what it is given must not be made for a row."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules


def row_product(linear: Any, x_I: Tensor, out: Tensor | None = None) -> Tensor:
    """`linear(x)`, `[O]`.

    Args:
        out: where to write it, in the dtype of x.
    """
    if is_plain(linear, or_biased=True):
        weight, bias = linear.weight, linear.bias
        return torch.mv(weight, x_I, out=out) if bias is None else torch.addmv(bias, weight, x_I, out=out)
    product = linear(x_I[None])[0]
    return product if out is None else out.copy_(product)


def product_into(linear: Any, x_NI: Tensor, out_NO: Tensor) -> None:
    """Writes `linear(x)`; in the dtype of x."""
    if is_plain(linear):
        torch.mm(x_NI, linear.weight.mT, out=out_NO)
    else:
        out_NO.copy_(linear(x_NI))


def row_plus_product(row_O: Tensor, linear: Any, x_I: Tensor) -> Tensor:
    """`row + linear(x)`, `[O]`."""
    if is_plain(linear):
        return torch.addmv(row_O, linear.weight, x_I)
    return row_O + linear(x_I[None])[0]


def is_plain(module: Any, or_biased: bool = False) -> bool:
    """Whether a module is an `nn.Linear` that computes what its weight says and nothing else.

    Args:
        or_biased: whether it may have a bias.
    """
    if type(module).forward is not nn.Linear.forward:
        return False
    parameters = module._parameters
    is_whole = type(parameters.get("weight")) in _TENSORS  # not where it is quantized or made of others
    return is_whole and (or_biased or parameters["bias"] is None) and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its class: hooks, or a forward of its own, as accelerate gives it."""
    own = module.__dict__
    return "forward" in own or any(own[name] for name in _HOOKS)
