"""A live frame of a TTT layer in few calls of torch: of one stream on a CPU, where it costs the calls it makes.

It computes what `online_learner.py` computes for one frame without gradients, as the kernel of `triton_frame.py` does.
Queries, keys and values are normed together, both features are made together, and the axes of batch and time, which are
1, are left out of products.

Legend: B batch, H heads, H' heads with convolution and lag, F head width, I width of the features, W taps, L lag.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..transformer.rms_norm import norm_numbers, rms_norm
from .answer_gate import SMALLEST_NORM
from .front_end import FrontEndState, Span, normed_values
from .online import NORM_EPS, SlowLayer


class FrameInput(NamedTuple):
    """Projections q, k, v `[B, H, 1, F]` and gates `[B, H, 1, 2]`: logit of the write, logarithm of the decay's scale.

    Args:
        lr: what the sigmoid of the write's logit is multiplied by.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gates: Tensor
    lr: float


class FrameParameters(NamedTuple):
    """Parameters of a learner in float32; what it has not is None.

    Args:
        answer_scale, mean_scale: `[H, F]`.
        write_bias, decay_bias, log_decay_scale, gate_bias, gate_scale: `[H]`.
        convolutions: of queries and keys, `[H', F, W]`; empty with W = 1.
        slow_layer: weight `[H, F, I]` and bias `[H, 1, I]`.
    """

    answer_scale: Tensor
    mean_scale: Tensor | None
    write_bias: Tensor
    decay_bias: Tensor | None
    log_decay_scale: Tensor | None
    gate_bias: Tensor | None
    gate_scale: Tensor | None
    convolutions: tuple[Tensor, ...]
    slow_layer: SlowLayer


class FrameState(NamedTuple):
    """What a layer remembers: the tensors of `OnlineState`."""

    fast_weights: Tensor
    front_end: FrontEndState
    value_mean: Tensor | None
    answer: Tensor | None


def short_frame(
    span: Span, frame: FrameInput, parameters: FrameParameters, before: FrameState
) -> tuple[Tensor, FrameState]:
    """z `[1, H, 1, F]` and the state after the frame, in new tensors; of one row, without gradients."""
    write, retention = _gates(frame, parameters)
    q, k, v = normed_values(torch.stack(frame[:3])).squeeze(3).unbind(0)
    front_end, value_mean = before.front_end, before.value_mean
    mean, frames = front_end.mean, front_end.frames
    if span.horizon_frames:
        frames = (frames + 1).clamp_max(span.horizon_frames)
        share = frames.to(v.dtype).reciprocal()
        mean = torch.lerp(mean, k, share)
        q, k = q - mean, k - mean
        if value_mean is not None:
            value_mean = torch.lerp(value_mean, v * (write > 0), share)
            v = v - value_mean
    weights = parameters.convolutions or (None, None)
    q, queries = _spanning(q, front_end.queries, weights[0], span)
    k, keys = _spanning(k, front_end.keys, weights[1], span)
    phi = _unit_features(torch.cat([q, k], dim=2).squeeze(0), parameters.slow_layer)
    answers, fast_weights = _learned(phi, v, write, retention, before.fast_weights)
    z = answers if before.answer is None else answers * _answer_gate(v, before.answer, parameters, span)
    if value_mean is not None and parameters.mean_scale is not None:
        z = torch.addcmul(z, value_mean, parameters.mean_scale)
    after = FrameState(
        fast_weights,
        FrontEndState(queries, keys, mean, frames),
        value_mean,
        None if before.answer is None else answers,
    )
    return (z * parameters.answer_scale)[:, :, None], after


def _gates(frame: FrameInput, parameters: FrameParameters) -> tuple[Tensor, Tensor | None]:
    """The write `[H, 1]`, and the retention `[H, 1, 1]` where anything is forgotten."""
    logit, forgetting = frame.gates.reshape(-1, 2).unbind(1)
    write = (torch.sigmoid(logit + parameters.write_bias) * frame.lr)[:, None]
    if parameters.decay_bias is None or parameters.log_decay_scale is None:
        return write, None
    decay = F.softplus(forgetting + parameters.decay_bias) * parameters.log_decay_scale.exp()
    return write, (-decay).exp()[:, None, None]


def _spanning(x_1HF: Tensor, past: Tensor, weight: Tensor | None, span: Span) -> tuple[Tensor, Tensor]:
    """A query or key `[1, H, 1, F]` of several frames, and the frames `[1, H', n, F]` that the next one needs.

    Args:
        past: the n frames before.
    """
    new, same = x_1HF[:, :, None], span.same_frame_heads
    frames = torch.cat([past, new[:, same:] if same else new], dim=2)
    window = frames if frames.shape[2] == span.width else frames[:, :, : span.width]
    spanning = window if weight is None else (window * weight.mT).sum(2, keepdim=True)
    return torch.cat([new[:, :same], spanning], dim=1) if same else spanning, frames[:, :, 1:]


def _unit_features(x_H2F: Tensor, slow_layer: SlowLayer) -> Tensor:
    """phi `[H, 2, I]`, as `online.unit_features`."""
    normed = rms_norm(x_H2F, None, NORM_EPS)
    found = F.gelu(torch.baddbmm(slow_layer.bias, normed, slow_layer.weight), approximate="tanh")
    present = normed.square().mean(-1, keepdim=True)
    _, smallest = norm_numbers(math.sqrt(NORM_EPS), found.dtype)
    size = torch.hypot(torch.linalg.vector_norm(found, dim=-1, keepdim=True), smallest)
    return found * (present / size)


def _learned(
    phi_H2I: Tensor, v_1HF: Tensor, write: Tensor, retention: Tensor | None, fast_weights: Tensor
) -> tuple[Tensor, Tensor]:
    """The answers `[1, H, F]`, and S after the frame: the recurrence of `online.py`, with S read once for both."""
    fast, (phi_q, phi_k) = fast_weights[0], phi_H2I.unbind(1)
    found = torch.bmm(phi_H2I, fast)
    recalled, seen = (found if retention is None else found * retention).unbind(1)
    written = write * (v_1HF - seen)
    answers = torch.addcmul(recalled, (phi_q * phi_k).sum(-1, keepdim=True), written)
    kept = fast.clone() if retention is None else fast * retention
    return answers, kept.addcmul_(phi_k[:, :, None], written.transpose(0, 1))[None]


def _answer_gate(v_1HF: Tensor, answer_before: Tensor, parameters: FrameParameters, span: Span) -> Tensor:
    """g `[H, 1]`, as `answer_gate.gate_factors`."""
    assert parameters.gate_bias is not None and parameters.gate_scale is not None, "a gate has both"
    pair = torch.stack([v_1HF, answer_before])
    pair = pair[:, :, span.same_frame_heads :] if span.same_frame_heads else pair
    sizes = torch.linalg.vector_norm(pair, dim=-1, keepdim=True).clamp_min(SMALLEST_NORM)
    total = (pair / sizes).prod(0).sum()
    share = 1 / pair.shape[2]
    return torch.sigmoid(torch.addcmul(parameters.gate_bias, parameters.gate_scale, total, value=share))[:, None]
