"""The front end of a TTT layer: queries and keys that span several frames and stand out from their mean.

From the projections q_t and k_t of each head and channel (v is left as it is):

    m_t = m_{t-1} + (k_t - m_{t-1}) / min(t, h)                  running mean, cumulative up to the horizon of h frames
    q'_t = sum over i < w of c^q_i (q_{t-w+1+i} - m_{t-w+1+i})   causal convolution per channel, w frames wide
    k'_t = the same of k with c^k, one frame later: it ends with frame t - 1

where q and k have been RMS-normed per head, so that no frame counts for more than another. Frames before the first are
zero, so the first key is zero. `FrontEnd` takes any number of frames and continues from a `FrontEndState`;
`naive_front_end` is the definition, frame by frame.

Legend: B batch, H heads, T frames, F head width, W width of the convolution, L lag of the keys in frames.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from ..transformer.rms_norm import rms_norm
from ..transformer.stream_state import StreamState
from .projections import InnerParameters

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import TTTConfig

_NORM_EPS = 1e-6
_BLOCK_FRAMES = 64  # frames whose running means are one matrix product


@dataclass
class FrontEndState(StreamState):
    """What the front end of one layer needs of the frames before; all zeros is a fresh stream.

    Args:
        queries, keys: the last centred projections, `[B, H', W - 1, F]` and `[B, H', W - 1 + L, F]` of the H' heads
            with convolution and lag, the newest last.
        mean: the running mean of the keys `[B, H, F]`.
        frames: `[B]` int64, frames in the mean, at most its horizon.
    """

    queries: Tensor
    keys: Tensor
    mean: Tensor
    frames: Tensor


class Span(NamedTuple):
    """What the front end does: W, L, the horizon of the running mean in frames (0 for none), and the heads, the first
    ones, that are only centred."""

    width: int
    lag: int
    horizon_frames: int
    same_frame_heads: int


class FrontEnd(nn.Module):
    """Centring, convolution and lag of queries and keys, where the configuration asks for them."""

    def __init__(self, num_heads: int, head_dim: int, ttt_config: "TTTConfig") -> None:
        super().__init__()
        self.init = ttt_config.key_convolution_init
        self.num_heads, self.head_dim = num_heads, head_dim
        self.span = Span(
            ttt_config.key_convolution_width,
            ttt_config.key_lag_frames,
            ttt_config.centering_horizon_frames,
            ttt_config.same_frame_heads,
        )
        shape = (num_heads - self.span.same_frame_heads, head_dim, self.span.width)
        self.convolutions = InnerParameters(torch.empty(shape) for _ in range(2 if self.span.width > 1 else 0))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The same start for queries and keys: random of unit norm per channel, or the identity."""
        if self.span.width == 1:
            return
        query, key = self.convolutions
        if self.init == "random":
            start = F.normalize(torch.randn(key.shape, device=key.device), dim=-1)
        else:
            start = F.pad(torch.ones(*key.shape[:-1], 1, device=key.device), (self.span.width - 1, 0))
        init.copy_(key, start)
        init.copy_(query, key)

    def init_state(self, batch_size: int, device: torch.device | str | None, dtype: torch.dtype) -> FrontEndState:
        """The state of `batch_size` fresh streams."""
        heads, before = self.num_heads - self.span.same_frame_heads, self.span.width - 1

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

        return FrontEndState(
            queries=zeros(heads, before, self.head_dim),
            keys=zeros(heads, before + self.span.lag, self.head_dim),
            mean=zeros(self.num_heads, self.head_dim),
            frames=torch.zeros(batch_size, dtype=torch.int64, device=device),
        )

    def forward(self, q: Tensor, k: Tensor, state: FrontEndState | None) -> tuple[Tensor, Tensor, FrontEndState]:
        """Queries and keys `[B, H, T, F]` for the learner, and the state after the last frame."""
        state = state or self.init_state(q.shape[0], q.device, q.dtype)
        return spanning(q, k, state, self.convolutions(), self.span)


def spanning(
    q: Tensor, k: Tensor, state: FrontEndState, weights: tuple[Tensor, ...], span: Span
) -> tuple[Tensor, Tensor, FrontEndState]:
    """Queries and keys `[B, H, T, F]` that span several frames, and the state after the last frame, in new tensors."""
    q, k = (rms_norm(x, None, _NORM_EPS) for x in (q, k))
    length, mean, frames = k.shape[2], state.mean, state.frames
    if span.horizon_frames:
        means = running_mean(k, mean, frames, span.horizon_frames)
        q, k, mean = q - means, k - means, means[:, :, -1]
        frames = (frames + length).clamp_max(span.horizon_frames)
    same = span.same_frame_heads
    queries, keys = (torch.cat([before, x[:, same:]], dim=2) for before, x in ((state.queries, q), (state.keys, k)))
    after = FrontEndState(queries[:, :, length:].clone(), keys[:, :, length:].clone(), mean.clone(), frames.clone())
    if weights:
        queries, keys = (convolved(x, weight, length) for x, weight in zip((queries, keys), weights, strict=True))
    else:
        keys = keys[:, :, :length]
    if same:
        queries, keys = torch.cat([q[:, :same], queries], dim=1), torch.cat([k[:, :same], keys], dim=1)
    return queries, keys, after


def normed_values(v: Tensor) -> Tensor:
    """v with RMS 1 per head and frame, so that no frame writes more than another."""
    return rms_norm(v, None, _NORM_EPS)


def value_means(v: Tensor, write: Tensor, mean: Tensor, frames_B: Tensor, span: Span) -> Tensor:
    """The running mean `[B, H, T, F]` of normed values, with the horizon of the front end.

    Frames that are not written count as 0, so that without inner steps the mean stays as silent as the memory.

    Args:
        write: `[B, H, T]`.
        mean: the mean before, `[B, H, F]`.
        frames_B: frames in it.
    """
    return running_mean(v * (write > 0)[..., None], mean, frames_B, span.horizon_frames)


def convolved(x: Tensor, weight_HFW: Tensor, frames: int) -> Tensor:
    """`y[t] = sum_i weight[i] x[t + i]` per channel, `[B, H, frames, F]` of x `[B, H, frames + W - 1 or more, F]`."""
    taps = weight_HFW.unbind(-1)
    y = x[:, :, :frames] * taps[0][:, None]
    for index, tap in enumerate(taps[1:], start=1):
        y = torch.addcmul(y, x[:, :, index : index + frames], tap[:, None])
    return y


def running_mean(x: Tensor, mean: Tensor, frames_B: Tensor, horizon_frames: int) -> Tensor:
    """The running mean `[B, H, T, F]` at each frame of x, the frame included.

    Args:
        mean: the mean before, `[B, H, F]`; 0 where there was no frame.
        frames_B: frames in it, at most the horizon.
    """
    length = x.shape[2]
    counts = frames_B[:, None] + torch.arange(1, length + 1, device=x.device)
    shares_BT = 1 / counts.clamp_max(horizon_frames).to(x.dtype)
    if length == 1:
        return torch.lerp(mean[:, :, None], x, shares_BT[:, None, :, None])
    size = min(length, _BLOCK_FRAMES)
    missing = -length % size
    if missing:
        x, shares_BT = F.pad(x, (0, 0, 0, missing)), F.pad(shares_BT, (0, missing))
    weights_BMCC, kept_BMC = _mean_weights(shares_BT.unflatten(1, (-1, size)))
    means = torch.matmul(weights_BMCC[:, None], x.unflatten(2, (-1, size)))
    ends = []
    for end, kept in zip(means[:, :, :, -1].unbind(2), kept_BMC[:, :, -1].unbind(1), strict=True):
        ends.append(mean)
        mean = torch.addcmul(end, kept[:, None, None], mean)
    means = torch.addcmul(means, kept_BMC[:, None, :, :, None], torch.stack(ends, dim=2)[:, :, :, None])
    return means.flatten(2, 3)[:, :, :length]


def _mean_weights(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[..., C, C]` of each frame of a block in the mean at each frame, and that `[..., C]` of the mean before.

    That of the mean before a stream's first frame may be anything, as that mean is 0.
    """
    kept = torch.where(shares < 1, 1 - shares, 1)
    log_kept = kept.log().cumsum(-1)
    weights = (log_kept[..., :, None] - log_kept[..., None, :]).tril().exp().tril() * shares[..., None, :]
    return weights, log_kept.exp()


def naive_front_end(front_end: FrontEnd, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The definition: queries and keys `[B, H, T, F]` for the learner, frame by frame from a fresh stream."""
    width, lag, horizon, same = front_end.span
    q, k = (x / (x.square().mean(-1, keepdim=True) + _NORM_EPS).sqrt() for x in (q, k))
    mean = torch.zeros_like(k[:, :, 0])
    centred_q, centred_k, new_q, new_k = (list[Tensor]() for _ in range(4))
    for t in range(q.shape[2]):
        if horizon:
            mean = mean + (k[:, :, t] - mean) / min(t + 1, horizon)
        centred_q.append(q[:, :, t] - mean)
        centred_k.append(k[:, :, t] - mean)
        weights = front_end.convolutions() or (torch.ones(1), torch.ones(1))
        ends = ((centred_q, t, new_q), (centred_k, t - lag, new_k))
        for weight, (centred, end, new) in zip(weights, ends, strict=True):
            total = torch.zeros_like(centred[t][:, same:])
            for i in range(width):
                frame = end - width + 1 + i
                total = total + (weight[..., i] * centred[frame][:, same:] if frame >= 0 else 0)
            new.append(torch.cat([centred[t][:, :same], total], dim=1))
    return torch.stack(new_q, dim=2), torch.stack(new_k, dim=2)
