"""Online test-time training as a learner of a TTT layer, and its control without inner steps.

`OnlineLearner` puts gates and parameters around the plain tensors of `online.py` and `delta_rule.py`. The answer leaves
at its own size, times one trained factor per channel and a gate: S of a fresh memory is silent, and so is one asked for
what it never heard. With `output_bias` the inner model is f(x; S, m) = S^T phi(x) + m, whose bias m is the running mean
of the values (a step of size 1 / min(t, horizon) on 1/2 ||m - v_t||^2), and S learns what differs from it:

    S_t = a_t S_{t-1} + b_t phi(k_t) (v_t - m_t - a_t S_{t-1}^T phi(k_t))^T;   z_t = s (g_t S_t^T phi(q_t) + s' m_t)

Legend: B batch, H heads, T frames, F head width, I width of the features, R gates per head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration_moshi_ttt import TTTConfig
from ..transformer.stream_state import StreamState
from .answer_gate import AnswerGate
from .delta_kernels import learn
from .delta_rule import delta_rule
from .front_end import FrontEnd, FrontEndState, Span, normed_values, value_means
from .naive import MemoryDiagnostics, key_cosine, key_dependent_share
from .online import OnlineTokens, SlowLayer, unit_features
from .projections import InnerParameters, fp32, inner_dtype
from .recomputation import walk
from .retention import LearnedRetention

# A threshold of one standard deviation keeps few features of a key awake, so that keys that are not alike hardly share
# any: a fresh layer answers with a cosine of 0.82 after one hearing of 48 pairs instead of 0.65 (F = 64).
_INITIAL_SLOW_BIAS = -1.0
_INITIAL_WRITE_LOGIT = 1.0
_SEGMENT_FRAMES = 256  # whose inside is computed again in the backward pass
_SEGMENT_FRAMES_ON_GPUS = 4096  # of all rows together: fewer and longer kernels, 0.3 GB a tensor of features at the 7B


@dataclass
class OnlineState(StreamState):
    """The memory of one TTT layer, one row per sample; zeros are a fresh memory.

    Args:
        fast_weights: S, `[B, H, I, F]` in float32 at least.
        front_end: what the front end needs of the frames before, where there is one.
        value_mean: m `[B, H, F]`, where the inner model has a bias.
        answer: that to the last frame `[B, H, F]`, ungated, where a gate compares it with the next value.
    """

    fast_weights: Tensor
    front_end: FrontEndState | None = None
    value_mean: Tensor | None = None
    answer: Tensor | None = None


class _SlowFeatures(nn.Module):
    """What the outer loop alone trains: the front end, the features of each head and the factor on the answers."""

    def __init__(self, num_heads: int, head_dim: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        self.config = ttt_config
        self.num_heads, self.head_dim = num_heads, head_dim
        hidden = [head_dim * ttt_config.ttt_mlp_expansion_factor] * (ttt_config.ttt_mlp_layers - 1)
        widths = [head_dim, *hidden]
        self.feature_dim = widths[-1]
        self.slow_weights = InnerParameters(
            torch.empty(num_heads, i, o) for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.slow_biases = InnerParameters(torch.empty(num_heads, 1, o) for o in widths[1:])
        self.answer_scale = nn.Parameter(torch.empty(num_heads, head_dim))
        self.front_end = FrontEnd(num_heads, head_dim, ttt_config) if ttt_config.has_front_end else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random features, few of them awake, and answers at their own size."""
        for weight, bias in zip(self.slow_weights, self.slow_biases, strict=True):
            init.normal_(weight, std=1 / math.sqrt(weight.shape[1]))
            init.constant_(bias, _INITIAL_SLOW_BIAS)
        init.ones_(self.answer_scale)
        if self.front_end is not None:
            self.front_end.reset_parameters()

    def slow_layers(self) -> list[SlowLayer]:
        """The features' layers in float32 at least."""
        return [SlowLayer(*pair) for pair in zip(self.slow_weights(), self.slow_biases(), strict=True)]

    def scaled(self, answers: Tensor) -> Tensor:
        """z of S^T phi(q)."""
        return answers * fp32(self.answer_scale)[:, None]


class OnlineLearner(_SlowFeatures, LearnedRetention):
    """One gradient step a frame on a fast layer over slow features.

    Its gates per frame and head are the logit of the write and the logarithm of the decay's scale.
    """

    gates_per_head = 2
    answers_at_own_size = True

    def __init__(self, num_heads: int, head_dim: int, ttt_config: TTTConfig) -> None:
        super().__init__(num_heads, head_dim, ttt_config)
        self.write_bias = nn.Parameter(torch.empty(num_heads))
        self.make_retention(num_heads)
        self.has_mean = ttt_config.output_bias and ttt_config.centering_horizon_frames > 0
        if self.has_mean:
            self.mean_scale = nn.Parameter(torch.empty(num_heads, head_dim))
        self.answer_gate = None
        if ttt_config.answer_gate == "agreement":
            self.answer_gate = AnswerGate(num_heads)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Writes of 0.73 of `base_lr`, and the initial retention."""
        super().reset_parameters()
        init.constant_(self.write_bias, _INITIAL_WRITE_LOGIT)
        self.reset_retention()
        if self.has_mean:
            init.ones_(self.mean_scale)
        if self.answer_gate is not None:
            self.answer_gate.reset_parameters()

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> OnlineState:
        """A fresh memory of `batch_size` rows, in float32 at least."""
        like = self.answer_scale
        shape = (batch_size, self.num_heads, self.feature_dim, self.head_dim)
        dtype = inner_dtype(like.dtype)
        fast_weights = torch.zeros(shape, dtype=dtype, device=device or like.device)
        if self.front_end is None:
            return OnlineState(fast_weights)
        front_end = self.front_end.init_state(batch_size, fast_weights.device, dtype)
        return OnlineState(
            fast_weights,
            front_end,
            value_mean=torch.zeros_like(front_end.mean) if self.has_mean else None,
            answer=torch.zeros_like(front_end.mean) if self.answer_gate is not None else None,
        )

    def inner_tokens(self, q: Tensor, k: Tensor, v: Tensor, gates_BHTR: Tensor, lr_scale: float = 1.0) -> OnlineTokens:
        """What the inner model is given, its values not yet normed.

        Raises:
            ValueError: `lr_scale` takes the write above 1, where it is no longer bounded.
        """
        self._require_bounded(lr_scale)
        q, k, v, gates_BHTR = (fp32(x) for x in (q, k, v, gates_BHTR))
        logit = gates_BHTR[..., 0] + self.write_bias.to(q.dtype)[:, None]
        write = torch.sigmoid(logit) * (lr_scale * self.config.base_lr)
        return OnlineTokens(q, k, v, self.log_retention(gates_BHTR[..., 1]), write)

    def _require_bounded(self, lr_scale: float) -> None:
        if self.config.base_lr * lr_scale > 1:
            raise ValueError(
                f"lr_scale={lr_scale!r} with base_lr={self.config.base_lr!r}, but their product must be at most 1."
            )

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates_BHTR: Tensor,
        state: OnlineState | None,
        diagnostics: bool,
        lr_scale: float = 1.0,
    ) -> tuple[Tensor, OnlineState, MemoryDiagnostics | None]:
        """z `[B, H, T, F]` of q, k, v `[B, H, T, F]` and gates `[B, H, T, 2]`, with the state after the last frame."""
        state = _at_least_fp32(self.init_state(len(q), q.device) if state is None else state)
        if v.shape[2] == 1 and not diagnostics and not torch.is_grad_enabled():
            from .live_frame import in_few_calls, in_one_kernel, is_one_kernel, is_short

            is_kernel = is_one_kernel(self, state, q.dtype)
            form = in_one_kernel if is_kernel else in_few_calls if is_short(self, state) else None
            if form is not None:
                self._require_bounded(lr_scale)
                z, frame_after = form(self, (q, k, v, gates_BHTR), state, lr_scale)
                return z, OnlineState(*frame_after), None
        tokens = self.inner_tokens(q, k, v, gates_BHTR, lr_scale)
        parts, parameters = self._parts(), self._step_parameters()
        before = tuple(state.named_tensors().values())
        answers, after = walk(partial(_step, parts), tuple(tokens), before, parameters, _segment_frames(q))
        state_after = _state(parts, after)
        found = self._diagnose(tokens, state, state_after) if diagnostics else None
        return answers, state_after, found

    def _parts(self) -> "_Parts":
        span = None if self.front_end is None else self.front_end.span
        return _Parts(span, self.answer_gate is not None, self.has_mean)

    def _step_parameters(self) -> tuple[Tensor, ...]:
        """What `_step` reads, in its order."""
        convolutions = () if self.front_end is None else self.front_end.convolutions()
        gate = () if self.answer_gate is None else self.answer_gate()
        mean_scale = (fp32(self.mean_scale),) if self.has_mean else ()
        slow = (x for layer in self.slow_layers() for x in layer)
        return (fp32(self.answer_scale), *convolutions, *gate, *mean_scale, *slow)

    @torch.no_grad()
    def _diagnose(self, tokens: OnlineTokens, before: OnlineState, after: OnlineState) -> MemoryDiagnostics:
        """The rule once more, with its errors: what a frame leaves of its error follows from the step it took."""
        slow, before_cosine, after_cosine = self.slow_layers(), None, None
        tokens = tokens._replace(v=normed_values(tokens.v))
        if self.front_end is not None:
            q, k, _ = self.front_end(tokens.q, tokens.k, before.front_end)
            before_cosine, after_cosine = key_cosine(tokens.k), key_cosine(k)
            if self.has_mean:
                assert before.value_mean is not None and before.front_end is not None, (
                    "a mean has a front end's horizon"
                )
                given = tokens.v, tokens.write, before.value_mean, before.front_end.frames, self.front_end.span
                tokens = tokens._replace(v=tokens.v - value_means(*given))
            tokens = tokens._replace(q=q, k=k)
        errors, phi = delta_rule(slow, tokens, before.fast_weights).errors, unit_features(tokens.k, slow)
        left = errors * (1 - tokens.write * phi.square().sum(-1))[..., None]
        others = unit_features(tokens.k.roll(self.head_dim // 2, dims=-1), slow)
        answers, other_answers = phi @ after.fast_weights, others @ after.fast_weights
        initial, before_step, after_step = (error.square().mean(-1) for error in (tokens.v, errors, left))
        return MemoryDiagnostics(
            initial, before_step, after_step,
            delta_ratio=None,
            key_dependent_share=key_dependent_share(answers),
            write_strength=tokens.write.mean(2),
            key_cosine_before=before_cosine,
            key_cosine_after=after_cosine,
            answer_norm_written=answers.norm(dim=-1).mean(2),
            answer_norm_unwritten=other_answers.norm(dim=-1).mean(2),
        )  # fmt: skip


def _segment_frames(x_BHTF: Tensor) -> int:
    """Frames that are learned in one go."""
    if x_BHTF.device.type == "cpu":
        return _SEGMENT_FRAMES
    return max(_SEGMENT_FRAMES, _SEGMENT_FRAMES_ON_GPUS // len(x_BHTF))


def _at_least_fp32(state: OnlineState) -> OnlineState:
    """The state as memories are computed with; FSDP2 may have cast a learner's arguments."""
    return state.map(lambda _, x: fp32(x) if x.is_floating_point() else x)


class _Parts(NamedTuple):
    """What `_step` consists of: the front end's span, and whether there is a gate and a mean of the values."""

    span: Span | None
    has_gate: bool
    has_mean: bool


def _state(parts: _Parts, tensors: Sequence[Tensor]) -> OnlineState:
    """The state of its tensors in order."""
    rest = iter(tensors)
    fast_weights = next(rest)
    front_end = None if parts.span is None else FrontEndState(next(rest), next(rest), next(rest), next(rest))
    value_mean = next(rest) if parts.has_mean else None
    return OnlineState(fast_weights, front_end, value_mean, answer=next(rest) if parts.has_gate else None)


def _step(
    parts: _Parts, frames: tuple[Tensor, ...], state: tuple[Tensor, ...], parameters: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One segment of `recomputation.walk`: front end and mean where there are any, the rule, the gate."""
    from .answer_kernels import outputs
    from .front_end_kernels import span_frames
    from .triton_answers import AnswerParts

    tokens, before, (answer_scale, *rest) = OnlineTokens(*frames), _state(parts, state), parameters
    front_end, means, value_mean, span = None, None, None, parts.span
    if span is not None and before.front_end is not None:
        convolutions = tuple(rest.pop(0) for _ in range(2 if span.width > 1 else 0))
        given = (tokens.q, tokens.k, tokens.v, tokens.write)
        q, k, v, means, front_end, value_mean = span_frames(
            given, before.front_end, before.value_mean, convolutions, span, before.fast_weights
        )
        tokens = tokens._replace(q=q, k=k, v=v)
    else:
        tokens = tokens._replace(v=normed_values(tokens.v))
    gate_bias, gate_scale = (rest.pop(0), rest.pop(0)) if parts.has_gate else (None, None)
    mean_scale = rest.pop(0) if parts.has_mean else None
    layers = [SlowLayer(weight, bias) for weight, bias in zip(rest[::2], rest[1::2], strict=True)]
    answers, fast_weights = learn(layers, tokens, before.fast_weights)
    said = AnswerParts(answers, tokens.v, means, before.answer, answer_scale, mean_scale, gate_bias, gate_scale)
    z, answer = outputs(said, 0 if span is None else span.same_frame_heads, before.fast_weights)
    after = OnlineState(fast_weights, front_end, value_mean, answer)
    return z, tuple(after.named_tensors().values())


@dataclass
class OnlineStaticState(StreamState):
    """Nothing is remembered, `[B, 0]`, which knows the number of rows; and what the front end needs of the frames
    before, where there is one."""

    nothing: Tensor
    front_end: FrontEndState | None = None


class OnlineStaticLearner(_SlowFeatures):
    """The control for capacity: the same features before a trained matrix, no inner steps."""

    gates_per_head = 2
    answers_at_own_size = True

    def __init__(self, num_heads: int, head_dim: int, ttt_config: TTTConfig) -> None:
        super().__init__(num_heads, head_dim, ttt_config)
        self.start_weight = nn.Parameter(torch.empty(num_heads, self.feature_dim, head_dim))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random, so that features of unit norm give answers of unit spread; `o_proj` is the one zero factor."""
        super().reset_parameters()
        init.normal_(self.start_weight, std=1.0)

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> OnlineStaticState:
        """The state of `batch_size` rows."""
        nothing = torch.zeros(batch_size, 0, device=device or self.answer_scale.device)
        if self.front_end is None:
            return OnlineStaticState(nothing)
        dtype = inner_dtype(self.answer_scale.dtype)
        return OnlineStaticState(nothing, self.front_end.init_state(batch_size, nothing.device, dtype))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        gates_BHTR: Tensor,
        state: OnlineStaticState | None,
        diagnostics: bool,
        lr_scale: float = 1.0,
    ) -> tuple[Tensor, OnlineStaticState, MemoryDiagnostics | None]:
        """As `OnlineLearner.forward`, whatever the gates."""
        projected_k, state = fp32(k), self.init_state(len(q), q.device) if state is None else state
        q, k, v = fp32(q), projected_k, normed_values(fp32(v))
        if self.front_end is not None:
            q, k, front_end = self.front_end(q, k, state.front_end)
            state = replace(state, front_end=front_end)
        slow, weight = self.slow_layers(), fp32(self.start_weight)
        z, found = self.scaled(unit_features(q, slow) @ weight), None
        if diagnostics:
            with torch.no_grad():
                answers = unit_features(k, slow) @ weight
                loss, share = (v - answers).square().mean(-1), key_dependent_share(answers)
                found = MemoryDiagnostics(loss, loss, loss, torch.zeros_like(share), share)
                if self.front_end is not None:
                    cosines = key_cosine(projected_k), key_cosine(k)
                    found = replace(found, key_cosine_before=cosines[0], key_cosine_after=cosines[1])
        return z, state, found
