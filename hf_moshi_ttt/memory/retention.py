"""The learned retention of a memory that forgets a little at every frame (Yang et al. 2024, "Gated Delta Networks").

Per head and frame, with a gate g_t of the frame and two trained parameters of the head:

    ln a_t = -exp(log_decay_scale) softplus(g_t + decay_bias)

Legend: B batch, H heads, T frames.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import TTTConfig


class LearnedRetention(nn.Module):
    """A learner with a retention per frame, which `make_retention` gives its parameters where it forgets at all."""

    config: "TTTConfig"

    def make_retention(self, num_heads: int) -> None:
        """The parameters, not yet with values; none with `forget="none"`."""
        if self.config.forget == "learned":
            self.decay_bias = nn.Parameter(torch.empty(num_heads))
            self.log_decay_scale = nn.Parameter(torch.empty(num_heads))

    @torch.no_grad()
    def reset_retention(self) -> None:
        """`initial_retention` over every `mini_batch_size` frames, where the gates are 0."""
        if self.config.forget == "learned":
            decay = -math.log(self.config.initial_retention) / self.config.mini_batch_size
            init.constant_(self.decay_bias, math.log(math.expm1(decay)))  # the inverse of softplus
            init.zeros_(self.log_decay_scale)

    def log_retention(self, gate_BHT: Tensor) -> Tensor:
        """ln a_t `[B, H, T]`, at most 0; all 0 with `forget="none"`."""
        if self.config.forget == "none":
            return torch.zeros_like(gate_BHT)
        decay = F.softplus(gate_BHT + self.decay_bias.to(gate_BHT.dtype)[:, None])
        return -self.log_decay_scale.to(gate_BHT.dtype).exp()[:, None] * decay
