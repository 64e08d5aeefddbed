"""When a live frame of an online learner runs in one kernel or in few calls of torch, and what these are given.

The learner is an `OnlineLearner`, whose module imports this one. Under `auto` the kernel is compared once per device,
sizes and options with the learner's own frame in torch.

Legend: B batch, H heads, F head width, R gates per head.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .delta_kernels import chosen_kernel, is_chosen_by_trial, largest_difference, passes_one_trial, use_memory_kernel
from .projections import fp32

if TYPE_CHECKING:
    from .front_end import Span
    from .short_frame import FrameInput, FrameParameters, FrameState


def is_one_kernel(learner: Any, state: Any, dtype: torch.dtype) -> bool:
    """Whether a frame after `state` is one: with a front end before one slow layer, without gradients, on Triton.

    Args:
        dtype: that of the projections.
    """
    if not _is_usual(learner) or chosen_kernel(state.fast_weights) != "triton":
        return False
    return not is_chosen_by_trial() or _is_sound(learner, state, dtype)


def is_short(learner: Any, state: Any) -> bool:
    """Whether a frame after `state` has a short way in torch: as `is_one_kernel`, of one stream on a CPU."""
    fast = state.fast_weights
    return _is_usual(learner) and len(fast) == 1 and fast.device.type == "cpu" and chosen_kernel(fast) == "torch"


def _is_usual(learner: Any) -> bool:
    is_plain = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return is_plain and learner.front_end is not None and len(learner.slow_weights) == 1


def in_one_kernel(
    learner: Any, projections: tuple[Tensor, Tensor, Tensor, Tensor], state: Any, lr_scale: float
) -> "tuple[Tensor, FrameState]":
    """z `[B, H, 1, F]` and the state after the frame.

    Args:
        projections: q, k, v `[B, H, 1, F]` and gates `[B, H, 1, R]`.
    """
    from .triton_frame import triton_frame

    return triton_frame(*_given(learner, projections, state, lr_scale))


def in_few_calls(
    learner: Any, projections: tuple[Tensor, Tensor, Tensor, Tensor], state: Any, lr_scale: float
) -> "tuple[Tensor, FrameState]":
    """As `in_one_kernel`, of one row."""
    from .short_frame import short_frame

    q, k, v, gates = (fp32(x) for x in projections)
    return short_frame(*_given(learner, (q, k, v, gates), state, lr_scale))


def _given(
    learner: Any, projections: tuple[Tensor, Tensor, Tensor, Tensor], state: Any, lr_scale: float
) -> "tuple[Span, FrameInput, FrameParameters, FrameState]":
    from .short_frame import FrameInput, FrameState

    frame = FrameInput(*projections, lr_scale * learner.config.base_lr)
    before = FrameState(state.fast_weights, state.front_end, state.value_mean, state.answer)
    return learner.front_end.span, frame, _parameters(learner), before


def _parameters(learner: Any) -> "FrameParameters":
    from .short_frame import FrameParameters

    forgets, gate = learner.config.forget == "learned", learner.answer_gate
    gate_bias, gate_scale = (None, None) if gate is None else gate()
    return FrameParameters(
        answer_scale=fp32(learner.answer_scale),
        mean_scale=fp32(learner.mean_scale) if learner.has_mean else None,
        write_bias=fp32(learner.write_bias),
        decay_bias=fp32(learner.decay_bias) if forgets else None,
        log_decay_scale=fp32(learner.log_decay_scale) if forgets else None,
        gate_bias=gate_bias,
        gate_scale=gate_scale,
        convolutions=learner.front_end.convolutions(),
        slow_layer=learner.slow_layers()[0],
    )


def _is_sound(learner: Any, state: Any, dtype: torch.dtype) -> bool:
    device = str(state.fast_weights.device)
    parts = learner.front_end.span, learner.has_mean, learner.answer_gate is None, learner.config.forget
    case = (*state.fast_weights.shape[1:], *parts, dtype)
    return passes_one_trial("The kernel of a live frame", device, case, lambda: _difference(learner, state, dtype))


def _difference(learner: Any, state: Any, dtype: torch.dtype) -> float:
    """Of answers and states of a second frame, from a fresh memory."""
    generator, found = torch.Generator().manual_seed(0), []
    _, heads, _, width = state.fast_weights.shape
    frames = [
        [torch.randn(1, heads, 1, n, generator=generator) for n in (width, width, width, learner.gates_per_head)]
        for _ in range(2)
    ]
    for kernel in ("triton", "torch"):
        before, z = learner.init_state(1, state.fast_weights.device), None
        with use_memory_kernel(kernel):
            for frame in frames:
                z, before, _ = learner(*(x.to(state.fast_weights.device, dtype) for x in frame), before, False)
        found.append([z, *(x.float() for x in before.named_tensors().values())])
    return largest_difference(*found)
