"""`TTTLayer`: the test-time-training layer as a module, between a hidden state and a branch of the residual stream.

It projects the hidden state to queries, keys, values and gates per head, hands them to a learner, which computes in
float32 at least, whatever the model's dtype or autocast, and projects the answer back. The memory is a `StreamState`
that is passed in and out; a forward pass writes no parameter. `o_proj` starts at zero, so a fresh layer adds nothing.

A learner is a module with `gates_per_head`, `reset_parameters()`, `init_state(batch_size, device)` and
`forward(q, k, v, gates, state, diagnostics, lr_scale) -> (z, state, diagnostics)`: here `TTTLearner` and
`StaticLearner`, and `GatedDeltaLearner` in its own file. `in_place_layer.py` is another kind of layer.

Legend: B batch, T frames, D model width, H heads, F head width, R gates per head, C frames per mini-batch.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration_moshi_ttt import TTTConfig
from ..transformer.adapted_linear import linear_of
from ..transformer.rope import apply_rope, rope_phases
from ..transformer.row_product import has_hooks, is_one_row, may_write, row_product
from ..transformer.stream_state import OwnStates, StreamState
from .front_end import FrontEnd, FrontEndState
from .gated_delta import GatedDeltaLearner
from .naive import InnerNetwork, InnerTokens, MemoryDiagnostics, TTTLayerOutput, TTTState, init_state, key_cosine
from .online_learner import OnlineLearner, OnlineStaticLearner
from .projections import (
    InnerParameters,
    OutputGate,
    TTTGate,
    TTTProjection,
    WideLayerNorm,
    fp32,
    inner_dtype,
    require_step,
)
from .scan import answer_at_start, diagnose, diagnose_at_start, ttt

_INNER_ROPE_THETA = 10000.0
# Keeps the spread of f_res near 1 after each tanh-GELU, which passes 0.425 of the power of a standard normal.
_GELU_GAIN = 1 / math.sqrt(0.425)
_PAPER_STD = 0.02


class TTTLearner(nn.Module):
    """A network per head that takes a gradient step on every frame; its parameters are every memory's start."""

    gates_per_head = 1
    answers_at_own_size = False

    def __init__(self, num_heads: int, head_dim: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        self.config = ttt_config
        self.head_dim = head_dim
        depth = ttt_config.ttt_mlp_layers
        hidden = [head_dim * ttt_config.ttt_mlp_expansion_factor] * (depth - 1)
        widths = [head_dim, *hidden, head_dim]
        num_biases = depth if ttt_config.output_bias else depth - 1
        self.inner_weights = InnerParameters(
            torch.empty(num_heads, i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.inner_biases = InnerParameters(torch.empty(num_heads, 1, o) for o in widths[1 : num_biases + 1])
        self.inner_norm_weight = nn.Parameter(torch.empty(num_heads, head_dim))
        self.inner_norm_bias = nn.Parameter(torch.empty(num_heads, head_dim))
        self.place_offset = nn.Parameter(torch.empty(ttt_config.mini_batch_size))
        if ttt_config.forget == "learned":
            self.keep_logit = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values of every parameter."""
        for layer, weight in enumerate(self.inner_weights):
            fan_in = (_GELU_GAIN if layer else 1.0) / math.sqrt(weight.shape[1])
            init.normal_(weight, std=_PAPER_STD if self.config.preset == "paper" else fan_in)
        for bias in self.inner_biases:
            init.zeros_(bias)
        init.ones_(self.inner_norm_weight)
        init.zeros_(self.inner_norm_bias)
        init.zeros_(self.place_offset)
        if self.config.forget == "learned":
            retention = float(self.config.initial_retention)
            init.constant_(self.keep_logit, math.log(retention / (1 - retention)))

    def inner_network(self) -> InnerNetwork:
        """The trained start of every memory, in float32 at least."""
        config = self.config
        positions = torch.arange(1, config.mini_batch_size + 1, device=self.place_offset.device)
        base = 1 / positions if config.step == "mean" else torch.full_like(1 / positions, 1 / len(positions))
        return InnerNetwork(
            weights=self.inner_weights(),
            biases=self.inner_biases(),
            norm_weight_HF=fp32(self.inner_norm_weight),
            norm_bias_HF=fp32(self.inner_norm_bias),
            position_weights_C=(base + fp32(self.place_offset)).clamp_min(0),
            retention_H=torch.sigmoid(fp32(self.keep_logit)) if config.forget == "learned" else None,
            normalize_target=config.preset != "paper",
            first_learned=config.ttt_mlp_layers - 1 if config.update == "last" else 0,
        )

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> TTTState:
        """A fresh memory of `batch_size` rows, in float32 at least."""
        first = self.config.ttt_mlp_layers - 1 if self.config.update == "last" else 0
        weights, biases = list(self.inner_weights)[first:], list(self.inner_biases)[first:]
        dtype, device = inner_dtype(weights[0].dtype), device or weights[0].device
        return init_state(weights, biases, self.config.mini_batch_size, batch_size, dtype, device)

    def inner_tokens(
        self, q: Tensor, k: Tensor, v: Tensor, gates_BHTR: Tensor, position_B: Tensor | None, lr_scale: float = 1.0
    ) -> InnerTokens:
        """Normed queries and keys with rotary positions inside the mini-batch, and learning rates.

        Args:
            position_B: frames of each row in its unfinished mini-batch, or None for rows that start.
            lr_scale: what `base_lr` is multiplied by.
        """
        q, k, v, gates_BHTR = (fp32(x) for x in (q, k, v, gates_BHTR))  # FSDP2 may have cast a learner's arguments
        lr = torch.sigmoid(gates_BHTR[..., 0]) * (lr_scale * self.config.base_lr / self.head_dim)
        if self.config.preset != "paper":
            q, k = (F.rms_norm(x, x.shape[-1:], eps=1e-6) for x in (q, k))
        size = self.config.mini_batch_size
        start = torch.zeros(1, dtype=torch.int64, device=q.device) if position_B is None else position_B
        positions_BT = (start[:, None] + torch.arange(q.shape[2], device=q.device)) % size
        phases = rope_phases(positions_BT, self.head_dim, _INNER_ROPE_THETA)
        return InnerTokens(apply_rope(q, phases), apply_rope(k, phases), v, lr)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates_BHTR: Tensor,
        state: TTTState | None,
        diagnostics: bool,
        lr_scale: float = 1.0,
    ) -> tuple[Tensor, StreamState, MemoryDiagnostics | None]:
        """z `[B, H, T, F]` of q, k, v `[B, H, T, F]` and gates `[B, H, T, 1]`, with the state after the last frame."""
        position_B = None if state is None else state.position
        net, tokens = self.inner_network(), self.inner_tokens(q, k, v, gates_BHTR, position_B, lr_scale)
        z, state_after = ttt(net, tokens, state)
        return z, state_after, diagnose(net, tokens, state, state_after) if diagnostics else None


@dataclass
class StaticState(StreamState):
    """The position in the mini-batch `[B]`, which the rotary positions need; nothing is remembered."""

    position: Tensor


class StaticLearner(TTTLearner):
    """The control for capacity: the same parameters, no inner steps."""

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> Any:
        """The state of `batch_size` rows."""
        where = device or self.place_offset.device
        return StaticState(torch.zeros(batch_size, dtype=torch.int64, device=where))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates_BHTR: Tensor,
        state: Any,
        diagnostics: bool,
        lr_scale: float = 1.0,
    ) -> tuple[Tensor, StreamState, MemoryDiagnostics | None]:
        """As `TTTLearner.forward`, at the start weights, whatever the gates."""
        position = self.init_state(q.shape[0], q.device).position if state is None else state.position
        net, tokens = self.inner_network(), self.inner_tokens(q, k, v, gates_BHTR, position)
        z = answer_at_start(net, tokens.q)
        state_after = StaticState((position + q.shape[2]) % self.config.mini_batch_size)
        return z, state_after, diagnose_at_start(net, tokens) if diagnostics else None


LEARNERS: dict[tuple[str, bool], Any] = {
    ("ttt", False): TTTLearner,
    ("ttt", True): OnlineLearner,
    ("static", False): StaticLearner,
    ("static", True): OnlineStaticLearner,
    ("gated_delta", False): GatedDeltaLearner,
    ("gated_delta", True): GatedDeltaLearner,
}


@dataclass
class WithFrontEndState(StreamState):
    """The memory of a learner, and what the front end before it needs of the frames before."""

    memory: StreamState
    front_end: FrontEndState


class WithFrontEnd(nn.Module):
    """A learner that knows nothing of several frames, with the front end before it."""

    def __init__(self, learner: Any, front_end: FrontEnd) -> None:
        super().__init__()
        self.memory, self.front_end = learner, front_end
        self.answers_at_own_size = learner.answers_at_own_size

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values of every parameter."""
        self.memory.reset_parameters()
        self.front_end.reset_parameters()

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> WithFrontEndState:
        """The state of `batch_size` rows."""
        parameter = next(self.memory.parameters())
        where, dtype = device or parameter.device, inner_dtype(parameter.dtype)
        front_end = self.front_end.init_state(batch_size, where, dtype)
        return WithFrontEndState(self.memory.init_state(batch_size, device), front_end)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates_BHTR: Tensor,
        state: WithFrontEndState | None,
        diagnostics: bool,
        lr_scale: float = 1.0,
    ) -> tuple[Tensor, WithFrontEndState, MemoryDiagnostics | None]:
        """As the learner's, on queries and keys that span several frames."""
        memory, before = (None, None) if state is None else (state.memory, state.front_end)
        spanning_q, spanning_k, front_end = self.front_end(fp32(q), fp32(k), before)
        z, memory, found = self.memory(spanning_q, spanning_k, v, gates_BHTR, memory, diagnostics, lr_scale)
        if found is not None:
            before_and_after = (key_cosine(fp32(x.detach())) for x in (k, spanning_k))
            found = replace(
                found, **dict(zip(("key_cosine_before", "key_cosine_after"), before_and_after, strict=True))
            )
        return z, WithFrontEndState(memory, front_end), found


def make_learner(num_heads: int, head_dim: int, ttt_config: TTTConfig) -> Any:
    """What remembers, by `learner` and `step`, with the front end where it has none of its own."""
    learner = LEARNERS[ttt_config.learner, ttt_config.step == "online"](num_heads, head_dim, ttt_config)
    if ttt_config.has_front_end and not isinstance(learner, (OnlineLearner, OnlineStaticLearner)):
        return WithFrontEnd(learner, FrontEnd(num_heads, head_dim, ttt_config))
    return learner


class TTTLayer(OwnStates, nn.Module):
    """A TTT layer that stands alone.

    Args:
        hidden_size: D, the width of the hidden state.
        num_attention_heads: H, the number of memories side by side.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        if hidden_size % (2 * num_attention_heads):
            raise ValueError(
                f"hidden_size={hidden_size} must be a multiple of 2 * num_attention_heads={2 * num_attention_heads}: "
                "the head width is even (RoPE)."
            )
        ttt_config.require_heads(num_attention_heads)
        if ttt_config.learner == "in_place":
            raise ValueError("learner='in_place' is a part of a feed-forward: make an InPlaceLayer.")
        self.config = ttt_config
        self.num_heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        learner_class = LEARNERS[ttt_config.learner, ttt_config.step == "online"]
        std = _PAPER_STD if ttt_config.preset == "paper" else 1 / math.sqrt(hidden_size)
        self.q_proj = TTTProjection(hidden_size, hidden_size, std)
        self.k_proj = TTTProjection(hidden_size, hidden_size, std)
        self.v_proj = TTTProjection(hidden_size, hidden_size, std)
        self.o_proj = TTTProjection(hidden_size, hidden_size, std=0)
        self.rate_proj = TTTProjection(hidden_size, num_attention_heads * learner_class.gates_per_head, std, bias=True)
        # In float32 also where models are made in another default dtype, as transformers does.
        self.learner = make_learner(num_attention_heads, self.head_dim, ttt_config).float()
        if not self.learner.answers_at_own_size:
            self.post_norm = WideLayerNorm(hidden_size, eps=1e-6)
        if ttt_config.output_gate == "sigmoid":
            self.output_gate = OutputGate(hidden_size, self.head_dim)
        self._start_queries()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initial values of every parameter; weights that came from a checkpoint keep theirs (`transformers`' rule)."""
        for proj in (self.q_proj, self.k_proj, self.v_proj, self.o_proj, self.rate_proj):
            proj.reset_parameters()
        self.learner.reset_parameters()
        if not self.learner.answers_at_own_size:
            init.ones_(self.post_norm.weight)
            init.zeros_(self.post_norm.bias)
        if self.config.output_gate == "sigmoid":
            self.output_gate.reset_parameters()
        self._start_queries()

    @torch.no_grad()
    def _start_queries(self) -> None:
        """Queries as keys, where asked for: then a fresh memory is addressed by content."""
        if self.config.query_start == "key":
            init.copy_(self.q_proj.weight, self.k_proj.weight)

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> StreamState:
        """A fresh memory of `batch_size` rows.

        Args:
            device: the layer's own if None; on `"meta"` it costs nothing and `num_bytes()` still gives its size.
        """
        return self.learner.init_state(batch_size, device)

    def output_modules(self) -> list[nn.Module]:
        """The modules that hold the weights of `output_sizes`."""
        return [self.o_proj]

    def output_sizes(self) -> Tensor:
        """`[D]`, the largest weight that writes to each channel; 0 where nothing is ever answered."""
        return self.o_proj.weight.abs().amax(1)

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values `[B, H, T, F]` and gates `[B, H, T, R]`, in the dtype of x."""
        projections = (self.q_proj, self.k_proj, self.v_proj, self.rate_proj)
        if is_one_row(x_BTD):
            row, shape = x_BTD.view(-1), (1, self.num_heads, 1, -1)
            q, k, v, gates = (row_product(proj, row).view(shape) for proj in projections)
        else:
            q, k, v, gates = (self._heads(proj(x_BTD)) for proj in projections)
        return q, k, v, gates

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(
        self, x_BTD: Tensor, state: StreamState | None = None, diagnostics: bool = False, inner_lr_scale: float = 1.0
    ) -> TTTLayerOutput:
        """Learns from `x` `[B, T, D]` and answers from it, frame by frame.

        Args:
            state: the memory to continue from, or None for a fresh one. It is not changed.
            diagnostics: whether to return what the memory did; costs about as much again as the learner's forward pass.
            inner_lr_scale: what `base_lr` is multiplied by, to warm the inner steps up in training.

        Raises:
            ValueError: x of another shape, a state of another number of rows or of another kind of layer, or a
                negative or infinite scale.
        """
        self._check(x_BTD, state, inner_lr_scale)
        with torch.autocast(x_BTD.device.type, enabled=False):
            x = x_BTD.to(_dtype_for(self.q_proj, x_BTD))
            z_BHTF, state_after, found = self.learner(*self.project(x), state, diagnostics, inner_lr_scale)
            z_BTD = z_BHTF.transpose(1, 2).flatten(-2)
            if not self.learner.answers_at_own_size:
                z_BTD = self.post_norm(z_BTD)
            if self.config.output_gate == "sigmoid":
                z_BTD = z_BTD * self.output_gate(x)
            return TTTLayerOutput(linear_of(self.o_proj, z_BTD.to(x.dtype)).to(x_BTD.dtype), state_after, found)

    def _check(self, x_BTD: Tensor, state: StreamState | None, inner_lr_scale: float) -> None:
        width = self.num_heads * self.head_dim
        if x_BTD.dim() != 3 or x_BTD.shape[1] < 1 or x_BTD.shape[2] != width:
            raise ValueError(f"x must be [B, T >= 1, {width}]; got {list(x_BTD.shape)}.")
        if state is not None and state.batch_size != x_BTD.shape[0]:
            raise ValueError(f"x has {x_BTD.shape[0]} rows, but the state has {state.batch_size}.")
        require_step(inner_lr_scale)
        if state is not None:
            self.require_own(state)


def _dtype_for(linear: nn.Linear, x: Tensor) -> torch.dtype:
    """What a linear layer takes `x` in: its weight's dtype, or the one `x` has where the weight is quantized."""
    dtype = linear.weight.dtype
    return dtype if dtype.is_floating_point and dtype.itemsize > 1 else x.dtype


def gated_sum(residual: Tensor, gate: Any, x: Tensor) -> Tensor:
    """`residual + gate(x)` of a `TTTGate`, in the dtype of the residual; off CPUs without gradients rounded once."""
    if not may_write(residual) or type(gate) is not TTTGate or has_hooks(gate):
        return residual + gate(x).to(residual.dtype)
    return torch.addcmul(residual, gate.factor(), x, out=torch.empty_like(residual))
