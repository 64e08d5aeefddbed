"""What makes a TTT layer's output of the memory's answers, in torch or in Triton's kernels; the choice is that of the
delta rule.

Under `auto` the kernels are compared with torch once per device and sizes, gradients included.

Legend: B batch, H heads, T frames, F head width.
"""

import torch
from torch import Tensor

from .answer_gate import gate_factors
from .delta_kernels import chosen_kernel, is_chosen_by_trial, largest_difference, passes_one_trial, with_gradients
from .triton_answers import AnswerParts, triton_outputs

_TRIAL_FRAMES = 20

Outputs = tuple[Tensor, Tensor | None]


def outputs(parts: AnswerParts, same_frame_heads: int, fast: Tensor) -> Outputs:
    """z `[B, H, T, F]` and, for a gate, the last answer `[B, H, F]` in a new tensor.

    Args:
        fast: the memory, which decides on the kernel.
    """
    is_triton = chosen_kernel(fast) == "triton" and not torch.compiler.is_compiling()
    if is_triton and (not is_chosen_by_trial() or _is_sound(parts, same_frame_heads)):
        return triton_outputs(parts, same_frame_heads)
    return _torch_form(parts, same_frame_heads)


def _torch_form(parts: AnswerParts, same_frame_heads: int) -> Outputs:
    answers, last = parts.answers, None
    if parts.answer_before is not None and parts.gate_bias is not None and parts.gate_scale is not None:
        last, gate = answers[:, :, -1].clone(), (parts.gate_bias, parts.gate_scale)
        answers = answers * gate_factors(answers, parts.values, parts.answer_before, gate, same_frame_heads)
    if parts.means is not None and parts.mean_scale is not None:
        answers = torch.addcmul(answers, parts.means, parts.mean_scale[:, None])
    return answers * parts.answer_scale[:, None], last


def _is_sound(parts: AnswerParts, same_frame_heads: int) -> bool:
    case = (*parts.answer_scale.shape, same_frame_heads, *(x is None for x in parts))
    device = str(parts.answers.device)
    return passes_one_trial("The kernel of the answers", device, case, lambda: _difference(parts, same_frame_heads))


def _difference(parts: AnswerParts, same_frame_heads: int) -> float:
    """Of outputs and gradients, on random frames of one row."""
    generator = torch.Generator().manual_seed(0)
    heads, width = parts.answer_scale.shape
    frames = (1, heads, _TRIAL_FRAMES, width)
    shapes = frames, frames, frames, (1, heads, width), (heads, width), (heads, width), (heads,), (heads,)
    random = [
        None if x is None else torch.randn(shape, generator=generator).to(x).requires_grad_()
        for x, shape in zip(parts, shapes, strict=True)
    ]
    leaves = [x for x in random if x is not None]
    found = []
    for form in (triton_outputs, _torch_form):
        with torch.enable_grad():
            made = form(AnswerParts(*random), same_frame_heads)  # type: ignore[arg-type]
            found.append(with_gradients(made, leaves))
    return largest_difference(*found)
