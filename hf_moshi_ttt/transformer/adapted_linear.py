"""LoRA adapters (peft) on a linear, or on those of all codebooks at once, in few kernels on a GPU.

peft calls two linears, with a cast to the adapter's dtype and one back, a scaling and a sum; autograd adds as many.
Where an adapter is plain, its scaling is a factor of a product, and both sums are written into the base's product.
Where those of all codebooks are alike, each operation is done once for all. The classes of peft are known by name, so
that nothing is imported where no adapter is.

Legend: Q codebooks, N rows, I and O width in and out, R rank; `...` nothing, or Q.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .row_product import has_hooks, is_one_row, is_plain, row_product


class Adapter(NamedTuple):
    """A linear `[..., O, I]`, what is added to it, `scaling * up @ down`, of `[..., R, I]` and `[..., O, R]`, and the
    factor."""

    base: Tensor
    down: Tensor
    up: Tensor
    scaling: float


def linear_of(linear: Any, x: Tensor) -> Tensor:
    """`linear(x)`, `[..., O]` of `[..., I]`, in the way that is short for one row or for a plain adapter on a GPU."""
    if is_one_row(x):
        return row_product(linear, x) if x.dim() == 1 else row_product(linear, x.view(-1)).view(*x.shape[:-1], -1)
    adapter = plain_adapter(linear) if _counts_kernels(x) else None
    if adapter is None:
        return linear(x)
    return adapted_product(adapter, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def plain_adapter(module: Any) -> Adapter | None:
    """The adapter of a linear that computes `base(x) + scaling * up(down(x))` and nothing else, its base not trained;
    None of another."""
    kind = type(module)
    if (kind.__module__, kind.__qualname__) != ("peft.tuners.lora.layer", "Linear") or has_hooks(module):
        return None
    if module.disable_adapters or module.merged or len(module.active_adapters) != 1:
        return None
    (name,) = module.active_adapters
    if name not in module.lora_A or name in module.lora_variant or not module.cast_input_dtype_enabled:
        return None
    dropout, parts = module.lora_dropout[name], (module.base_layer, module.lora_A[name], module.lora_B[name])
    drops = not isinstance(dropout, nn.Identity) and dropout.training
    if drops or has_hooks(dropout) or not all(is_plain(part) for part in parts):
        return None
    base, down, up = (part.weight for part in parts)
    return None if base.requires_grad else Adapter(base, down, up, float(module.scaling[name]))


def plain_adapters(linears: Sequence[Any]) -> list[Adapter] | None:
    """The adapters of linears that are plain, all in one shape; None where one of them is not."""
    found = [adapter for adapter in map(plain_adapter, linears) if adapter is not None]
    kinds = {(x.base.shape, x.down.shape, x.down.dtype, x.scaling) for x in found}
    return found if len(found) == len(linears) and len(kinds) == 1 else None


def adapted_products(adapters: Sequence[Adapter], x_QNI: Tensor) -> Tensor:
    """`[Q, N, O]`: row q through linear q and its adapter, all of one shape."""
    base, down, up = (torch.stack(weights) for weights in list(zip(*adapters, strict=True))[:3])
    return adapted_product(Adapter(base, down, up, adapters[0].scaling), x_QNI)


def adapted_product(adapter: Adapter, x: Tensor) -> Tensor:
    """`[..., N, O]` of `[..., N, I]`: through the linear and its adapter, which computes in the dtype of its own
    weights, or in autocast's. It is differentiated once."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        added = (x @ adapter.down.mT) @ adapter.up.mT
        return torch.add(x @ adapter.base.mT, added, alpha=adapter.scaling)
    found: Tensor = _Adapted.apply(x, *adapter)
    return found


def _counts_kernels(x: Tensor) -> bool:
    return x.device.type != "cpu" and not torch.compiler.is_compiling()


class _Adapted(torch.autograd.Function):
    """With s the factor, x' the input and g' the gradient in the adapter's dtype, and low = s x' down^T:

    y = x base^T + low up^T;   low' = s g' up;   dx = g base + low' down;   d down = low'^T x';   d up = g'^T low
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        wide = x.to(down.dtype)
        low = _scaled_product(wide, down.mT, scaling)
        ctx.save_for_backward(wide, low, base, down, up)
        ctx.scaling = scaling
        return _add_product(_product(x, base.mT), low, up.mT)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide, low, base, down, up = ctx.saved_tensors
        needs_x, _, needs_down, needs_up, _ = ctx.needs_input_grad
        wide_grad = grad.to(up.dtype)
        of_up = _product(wide_grad.mT, low) if needs_up else None
        low_grad = _scaled_product(wide_grad, up, ctx.scaling) if needs_x or needs_down else None
        of_down = _product(low_grad.mT, wide) if needs_down and low_grad is not None else None
        of_x = _add_product(_product(grad, base), low_grad, down) if needs_x and low_grad is not None else None
        return of_x, None, of_down, of_up, None


def _product(left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right) if left.dim() == 2 else torch.bmm(left, right)


def _scaled_product(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """`factor * left @ right` in one kernel: what the product is added to counts for nothing."""
    nothing = left.new_empty(*left.shape[:-1], right.shape[-1])
    plus_product = torch.addmm if left.dim() == 2 else torch.baddbmm
    return plus_product(nothing, left, right, beta=0, alpha=factor)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Adds `left @ right` to the total in place, rounded once where the total is the narrower."""
    if total.dtype != left.dtype:
        return total.add_(_product(left, right))
    return total.addmm_(left, right) if left.dim() == 2 else total.baddbmm_(left, right)
