"""Gradients by hand that cannot be differentiated themselves, and say so.

torch's `once_differentiable` raises only under `.backward()`, and only where the incoming gradient itself requires one:
from a Hessian, or from `torch.autograd.grad`, the function's part is left out without a word
(`findings/torch_once_differentiable_is_silent.sh`).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def first_derivative_only(what: str, instead: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for the `backward` of a `torch.autograd.Function`.

    Args:
        what: what it is the gradient of, for the error.
        instead: what to do, for the error.

    The decorated function raises RuntimeError where its gradient is to be differentiated (`create_graph=True`).
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(backward)
        def checked(ctx: Any, *grads: Tensor | None) -> Any:
            if torch.is_grad_enabled() and not torch.compiler.is_compiling():
                raise RuntimeError(
                    f"create_graph=True asks for a second derivative, which {what} do not have: leave it out, or "
                    f"{instead}."
                )
            return backward(ctx, *grads)

        return checked

    return decorate
