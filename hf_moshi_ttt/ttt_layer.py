"""`TTTLayer`: the test-time-training layer as a module, between a hidden state and a branch of the residual stream.

It projects the hidden state to queries, keys, values and learning rates per head, runs the inner loop of `ttt.py` in
float32 at least, whatever the model's dtype or autocast, and projects the answer back. The memory is a `TTTState` that
is passed in and out; a forward pass writes no parameter. `o_proj` starts at zero, so a fresh layer adds nothing.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .configuration_moshi_ttt import TTTConfig
from .rope import apply_rope, rope_phases
from .ttt import InnerNetwork, InnerTokens, TTTState, init_state, ttt

_INNER_ROPE_THETA = 10000.0
# Keeps the spread of f_res near 1 behind each tanh-GELU, which passes 0.425 of the power of a standard normal.
_GELU_GAIN = 1 / math.sqrt(0.425)


@dataclass
class TTTLayerOutput:
    """What a TTT layer returns: the branch `output` `[B, T, D]` and the memory `state` behind the last frame."""

    output: Tensor
    state: TTTState


class TTTLayer(nn.Module):
    """A TTT layer that stands alone.

    Args:
        hidden_size: D, the width of the hidden state.
        num_attention_heads: H, the number of memories side by side.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size={hidden_size} must be a multiple of num_attention_heads={num_attention_heads}."
            )
        self.config = ttt_config
        self.num_heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        with _own_random_numbers():
            self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
            self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
            self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
            self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)
            self.lr_proj = nn.Linear(hidden_size, num_attention_heads)
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.o_proj, self.lr_proj):
            # `reset_parameters` fills them; transformers shall not draw numbers for them.
            proj._is_hf_initialized = True  # type: ignore[assignment]
        self.post_norm = nn.LayerNorm(hidden_size, eps=1e-6)
        widths = self._inner_widths()
        num_biases = ttt_config.ttt_mlp_layers - (0 if ttt_config.output_bias else 1)
        heads = num_attention_heads
        self.inner_weights = nn.ParameterList(
            torch.empty(heads, i, o, dtype=torch.float32) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.inner_biases = nn.ParameterList(
            torch.empty(heads, 1, o, dtype=torch.float32) for o in widths[1 : num_biases + 1]
        )
        self.inner_norm_weight = nn.Parameter(torch.empty(heads, self.head_dim, dtype=torch.float32))
        self.inner_norm_bias = nn.Parameter(torch.empty(heads, self.head_dim, dtype=torch.float32))
        self.place_offset = nn.Parameter(torch.empty(ttt_config.mini_batch_size, dtype=torch.float32))
        if ttt_config.forget == "learned":
            self.keep_logit = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        self.reset_parameters()

    def _inner_widths(self) -> list[int]:
        hidden = self.head_dim * self.config.ttt_mlp_expansion_factor
        return [self.head_dim, *[hidden] * (self.config.ttt_mlp_layers - 1), self.head_dim]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values of every parameter; weights that came from a checkpoint keep theirs (`transformers`' rule).

        The random numbers are the layer's own: with one seed, a model has the same other weights with and without TTT.
        """
        with _own_random_numbers():
            self._draw_weights()
        init.zeros_(self.lr_proj.bias)
        init.zeros_(self.o_proj.weight)
        init.ones_(self.post_norm.weight)
        init.zeros_(self.post_norm.bias)
        for bias in self.inner_biases:
            init.zeros_(bias)
        init.ones_(self.inner_norm_weight)
        init.zeros_(self.inner_norm_bias)
        init.zeros_(self.place_offset)
        if self.config.forget == "learned":
            keep = float(self.config.initial_keep_factor)
            init.constant_(self.keep_logit, math.log(keep / (1 - keep)))

    def _draw_weights(self) -> None:
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.lr_proj):
            init.normal_(proj.weight, std=1 / math.sqrt(proj.in_features))
        for layer, weight in enumerate(self.inner_weights):
            gain = _GELU_GAIN if layer else 1.0
            fan_in = gain / math.sqrt(weight.shape[1])
            init.normal_(weight, std=0.02 if self.config.preset == "paper" else fan_in)

    def inner_network(self) -> InnerNetwork:
        """The trained start of every memory, in float32 at least."""
        places = torch.arange(1, self.config.mini_batch_size + 1, device=self.place_offset.device)
        base = 1 / places if self.config.step == "mean" else torch.full_like(1 / places, 1 / len(places))
        keep = torch.sigmoid(_fp32(self.keep_logit)) if self.config.forget == "learned" else None
        return InnerNetwork(
            weights=tuple(_fp32(w) for w in self.inner_weights),
            biases=tuple(_fp32(b) for b in self.inner_biases),
            norm_weight_HF=_fp32(self.inner_norm_weight),
            norm_bias_HF=_fp32(self.inner_norm_bias),
            place_weights_C=(base + _fp32(self.place_offset)).clamp_min(0),
            keep_H=torch.ones_like(_fp32(self.inner_norm_weight[:, 0])) if keep is None else keep,
            normalize_target=self.config.preset == "default",
        )

    def init_state(self, batch_size: int) -> TTTState:
        """A fresh memory of `batch_size` rows."""
        return init_state(self.inner_network(), batch_size, _inner_dtype(self.inner_norm_weight.dtype))

    def inner_tokens(self, x_BTD: Tensor, state: TTTState | None) -> InnerTokens:
        """Projections of the hidden state, with rotary positions inside the mini-batch."""
        q, k, v = (self._heads(proj(x_BTD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        lr = torch.sigmoid(_fp32(self.lr_proj(x_BTD))) * (self.config.base_lr / self.head_dim)
        if self.config.preset == "default":
            q, k = (F.rms_norm(x, x.shape[-1:], eps=1e-6) for x in (q, k))
        start = x_BTD.new_zeros(1, 1, dtype=torch.int64) if state is None else state.place[:, None]
        places = (start + torch.arange(x_BTD.shape[1], device=x_BTD.device)) % self.config.mini_batch_size
        phases = rope_phases(places, self.head_dim, _INNER_ROPE_THETA)
        return InnerTokens(apply_rope(q, phases), apply_rope(k, phases), v, lr.transpose(1, 2))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return _fp32(x_BTD).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def forward(self, x_BTD: Tensor, state: TTTState | None = None) -> TTTLayerOutput:
        """Learns from `x` `[B, T, D]` and answers from it, frame by frame.

        Args:
            state: the memory to continue from, or None for a fresh one. It is not changed.
        """
        with torch.autocast(x_BTD.device.type, enabled=False):
            x = x_BTD.to(self.q_proj.weight.dtype)
            z_BHTF, state = ttt(self.inner_network(), self.inner_tokens(x, state), state)
            z_BTD = z_BHTF.transpose(1, 2).flatten(-2)
            normed = F.layer_norm(
                z_BTD, z_BTD.shape[-1:], _fp32(self.post_norm.weight), _fp32(self.post_norm.bias), 1e-6
            )
            return TTTLayerOutput(self.o_proj(normed.to(x.dtype)).to(x_BTD.dtype), state)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Random numbers that follow from the seed, but leave the sequence outside as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), device="cpu")))
        yield


def _inner_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _fp32(x: Tensor) -> Tensor:
    return x.to(_inner_dtype(x.dtype))
