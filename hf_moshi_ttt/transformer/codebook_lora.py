"""LoRA adapters (peft) on the linears of all codebooks, in three batched products instead of three for each codebook.

peft calls every adapter by itself, with a cast to the adapter's dtype and one back, a scaling and a sum. Where all
linears carry the same plain adapter the sums are the same and each operation is done once. The classes of peft are
known by name, so that nothing is imported where no adapter is.

Legend: Q codebooks, N rows, I and O width in and out, R rank.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .row_product import has_hooks, is_plain


class Adapter(NamedTuple):
    """A linear `[O, I]`, what is added to it, `scaling * up @ down`, of `[R, I]` and `[O, R]`, and the factor."""

    base: Tensor
    down: Tensor
    up: Tensor
    scaling: float


def plain_adapters(linears: Sequence[Any]) -> list[Adapter] | None:
    """The adapters of linears that compute `base(x) + scaling * up(down(x))` and nothing else, all in one shape; None
    where one of them does not."""
    found = [adapter for adapter in map(_plain_adapter, linears) if adapter is not None]
    kinds = {(x.base.shape, x.down.shape, x.down.dtype, x.scaling) for x in found}
    return found if len(found) == len(linears) and len(kinds) == 1 else None


def adapted_products(adapters: Sequence[Adapter], x_QNI: Tensor) -> Tensor:
    """`[Q, N, O]`: row q through linear q and its adapter, which computes in the dtype of its own weights."""
    base, down, up = (torch.stack(weights).mT for weights in list(zip(*adapters, strict=True))[:3])
    result = torch.bmm(x_QNI, base)
    added = torch.bmm(torch.bmm(x_QNI.to(down.dtype), down), up)
    return torch.add(result, added, alpha=adapters[0].scaling).to(result.dtype)


def _plain_adapter(module: Any) -> Adapter | None:
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
    return Adapter(base, down, up, float(module.scaling[name]))
