"""LoRA adapters (peft) on a linear, or on those of all codebooks at once, in few kernels on a GPU.

peft calls two linears, with a cast to the adapter's dtype and one back, a scaling and a sum; autograd adds as many.
Where an adapter is plain, its scaling is a factor of a product, and the sums are rounded once. No product is written to
in a forward pass: selective activation checkpointing may keep it.
Where those of all codebooks are alike, each operation is done once for all. The classes of peft are known by name, so
that nothing is imported where no adapter is.

Legend: Q codebooks, N rows, I and O width in and out, R rank; `...` nothing, or Q.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .first_derivative import first_derivative_only
from .row_product import counts_kernels, has_hooks, is_cast, is_one_row, is_plain, row_product


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
    adapter = plain_adapter(linear) if counts_kernels(x) else None
    if adapter is None:
        return linear(x)
    return adapted_product(adapter, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], len(adapter.base))


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


def stacked_adapters(adapters: Sequence[Adapter]) -> Adapter:
    """Those of Q linears, all of one shape, as one whose weights have Q as their first axis."""
    bases, downs, ups = list(zip(*adapters, strict=True))[:3]
    down, up = _Stacked.apply(*downs, *ups)
    return Adapter(torch.stack(bases), down, up, adapters[0].scaling)


def adapted_products_of_one(adapters: Sequence[Adapter], x_NI: Tensor) -> Tensor:
    """`[Q, N, O]`: x through every linear and its adapter, all of one shape. It is differentiated once."""
    if is_cast(x_NI):
        return adapted_product(stacked_adapters(adapters), x_NI[None].expand(len(adapters), -1, -1))
    found: Tensor = _AdaptedOfOne.apply(x_NI, *stacked_adapters(adapters))
    return found


def adapted_product(adapter: Adapter, x: Tensor) -> Tensor:
    """`[..., N, O]` of `[..., N, I]`: through the linear and its adapter, which computes in the dtype of its own
    weights, or in autocast's. It is differentiated once."""
    if is_cast(x):
        added = (x @ adapter.down.mT) @ adapter.up.mT
        return torch.add(x @ adapter.base.mT, added, alpha=adapter.scaling)
    if x.dim() == 2:
        passed, low = _Low.apply(x, adapter.down, adapter.scaling)
        added = low @ adapter.up.mT
        found: Tensor = _Sum.apply(passed if x.requires_grad else x, adapter.base, added)
    else:
        found = _Adapted.apply(x, *adapter)
    return found


_once = first_derivative_only("adapted linears off CPUs", "merge the adapters first")


class _Stacked(torch.autograd.Function):
    """`[Q, R, I]` and `[Q, O, R]` of Q tensors each, in one kernel and none for the gradients."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, Tensor]:
        count = len(weights) // 2
        both = torch.cat([weight.flatten() for weight in weights])
        shapes = (count, *weights[0].shape), (count, *weights[-1].shape)
        down, up = both.split([math.prod(shape) for shape in shapes])
        return down.view(shapes[0]), up.view(shapes[1])

    @staticmethod
    @_once
    def backward(ctx: Any, grad_down: Tensor, grad_up: Tensor) -> tuple[Tensor, ...]:
        return *grad_down.unbind(0), *grad_up.unbind(0)


class _Low(torch.autograd.Function):
    """x `[N, I]` as it is, and `scaling * x down^T` `[N, R]`.

    What comes of x goes through here, so that its gradient is summed once. With `_Sum` it is what `_Adapted` is, but
    nothing is kept after the adapter's products, so a checkpointed layer that ends with this linear makes no product
    with the base a second time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
        wide = x.to(down.dtype)
        ctx.save_for_backward(wide, down)
        ctx.set_materialize_grads(False)
        ctx.scaling = scaling
        return x, _scaled_product(wide, down.mT, scaling)

    @staticmethod
    @_once
    def backward(ctx: Any, grad_x: Tensor | None, grad_low: Tensor) -> tuple[Tensor | None, ...]:
        wide, down = ctx.saved_tensors
        of_down = _scaled_product(grad_low.mT, wide, ctx.scaling) if ctx.needs_input_grad[1] else None
        of_x = None
        if grad_x is not None:
            of_x = torch.add(grad_x, grad_low @ down, alpha=ctx.scaling, out=torch.empty_like(grad_x))
        return of_x, of_down, None


class _Sum(torch.autograd.Function):
    """`x base^T + added` `[N, O]`, rounded once; keeps nothing but the base, which is a parameter and not trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor, added: Tensor) -> Tensor:
        ctx.base, ctx.dtype = base, added.dtype
        return _sum_like(torch.mm(x, base.mT), added)

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return torch.mm(grad, ctx.base) if ctx.needs_input_grad[0] else None, None, grad.to(ctx.dtype)


class _Adapted(torch.autograd.Function):
    """Of all codebooks, with s the factor, x' and g' input and gradient in the adapter's dtype, and low = s x' down^T:

    y = x base^T + low up^T;   low' = s g' up;   dx = g base + low' down;   d down = low'^T x';   d up = g'^T low
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        wide = x.to(down.dtype)
        low = _scaled_product(wide, down.mT, scaling)
        ctx.save_for_backward(wide, low, base, down, up)
        ctx.scaling = scaling
        product = torch.bmm(x, base.mT)
        if product.dtype != low.dtype:
            return _sum_like(product, torch.bmm(low, up.mT))
        return torch.baddbmm(product, low, up.mT)

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide, low, base, down, up = ctx.saved_tensors
        low_grad, of_down, of_up = _adapter_gradients(ctx, grad, wide, low, up)
        of_x = None
        if ctx.needs_input_grad[0] and low_grad is not None:
            of_x = _add_product(torch.bmm(grad, base), low_grad, down)
        return of_x, None, of_down, of_up, None


class _AdaptedOfOne(torch.autograd.Function):
    """As `_Adapted`, of one x `[N, I]` for all codebooks, whose weights are rows of one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        wide = x.to(down.dtype)
        low = _by_codebook(_scaled_product(wide, down.flatten(0, 1).mT, scaling), down)
        ctx.save_for_backward(wide, low, base, down, up)
        ctx.scaling = scaling
        product = _by_codebook(torch.mm(x, base.flatten(0, 1).mT), base)
        return _sum_like(product, torch.bmm(low, up.mT))

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wide, low, base, down, up = ctx.saved_tensors
        low_grad, of_down, of_up = _adapter_gradients(ctx, grad, wide, low, up)
        of_x = None
        if ctx.needs_input_grad[0] and low_grad is not None:
            of_x = torch.mm(_by_row(grad), base.flatten(0, 1))
            _add_product(of_x, _by_row(low_grad), down.flatten(0, 1))
        return of_x, None, of_down, of_up, None


def _adapter_gradients(ctx: Any, grad: Tensor, wide: Tensor, low: Tensor, up: Tensor) -> tuple[Tensor | None, ...]:
    """`low'`, and the gradients of `down` and `up`, as `_Adapted` has them; None of what is not asked for."""
    needs_x, _, needs_down, needs_up, _ = ctx.needs_input_grad
    wide_grad = grad.to(up.dtype)
    of_up = torch.bmm(wide_grad.mT, low) if needs_up else None
    if not needs_x and not needs_down:
        return None, None, of_up
    low_grad = _scaled_product(wide_grad, up, ctx.scaling)
    of_down = torch.bmm(low_grad.mT, wide.expand(len(up), -1, -1)) if needs_down else None
    return low_grad, of_down, of_up


def _by_codebook(x: Tensor, weights_QRI: Tensor) -> Tensor:
    """`[N, Q * R]` as `[Q, N, R]`."""
    return x.unflatten(-1, weights_QRI.shape[:2]).transpose(0, 1)


def _by_row(x_QNR: Tensor) -> Tensor:
    """`[N, Q * R]`."""
    return x_QNR.transpose(0, 1).flatten(1)


def _sum_like(total: Tensor, added: Tensor) -> Tensor:
    """Their sum in the dtype of the total, contiguous."""
    return torch.add(total, added, out=total.new_empty(total.shape))


def _scaled_product(left: Tensor, right: Tensor, factor: float) -> Tensor:
    """`factor * left @ right` in one kernel: what the product is added to counts for nothing."""
    nothing = left.new_empty(*left.shape[:-1], right.shape[-1])
    plus_product = torch.addmm if left.dim() == 2 else torch.baddbmm
    return plus_product(nothing, left, right, beta=0, alpha=factor)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Adds `left @ right` to the total in place, rounded once where the total is the narrower."""
    if total.dtype != left.dtype:
        return total.add_(left @ right)
    return total.addmm_(left, right) if left.dim() == 2 else total.baddbmm_(left, right)
