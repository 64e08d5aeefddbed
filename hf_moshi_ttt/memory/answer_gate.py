"""A gate that makes a memory as loud as its answers come true.

Keys end one frame before their value, so the answer r_{t-1} = S_{t-1}^T phi(q_{t-1}) is about v_t. When frame t is
heard, their cosine says whether the memory knows what it hears; where it does not, the next answer is only what
resembles the present. With the mean over heads, and a trained bias and scale per head:

    g_t = sigmoid(scale * mean over heads of cos(v_t, r_{t-1}) + bias)

Legend: B batch, H heads, T frames, F head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .projections import fp32

_INITIAL_BIAS, _INITIAL_SCALE = -9.0, 20.0  # half open at a cosine of 0.45
SMALLEST_NORM = 1e-4


class AnswerGate(nn.Module):
    """The bias and the scale of each head, `[H]`."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(num_heads))
        self.scale = nn.Parameter(torch.empty(num_heads))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Open where an answer came true, closed where it had nothing to do with what came."""
        init.constant_(self.bias, _INITIAL_BIAS)
        init.constant_(self.scale, _INITIAL_SCALE)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Both, in float32 at least."""
        return fp32(self.bias), fp32(self.scale)


def gate_factors(
    answers: Tensor, v: Tensor, answer_before: Tensor, weights: tuple[Tensor, Tensor], same_frame_heads: int
) -> Tensor:
    """g `[B, H, T, 1]`.

    Args:
        answers: r `[B, H, T, F]`.
        v: values as the memory learns them, `[B, H, T, F]`.
        answer_before: r of the frame before the first, `[B, H, F]`; 0 where there was none.
        weights: bias and scale, `[H]` each.
        same_frame_heads: the first heads, whose answers are not about the next frame and have no say.
    """
    before = torch.cat([answer_before[:, :, None], answers[:, :, :-1]], dim=2)
    v, before = (x[:, same_frame_heads:] for x in (v, before))
    agreement = F.cosine_similarity(v, before, dim=-1, eps=SMALLEST_NORM).mean(1, keepdim=True)
    bias, scale = (x[:, None] for x in weights)
    return torch.sigmoid(torch.addcmul(bias, scale, agreement))[..., None]
