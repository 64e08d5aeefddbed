"""Text and audio losses on logits that are aligned with their codes; codes below 0 carry no loss."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import MoshiTTTConfig

_CHUNK_VALUES = 2**24  # float32 logits that are held at once: 64 MiB


def code_losses(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy in float32 of `logits` `[..., V]` at `codes` `[...]`, and 0 where a code is below 0: `[...]`.

    Large inputs are processed in chunks that the backward pass recomputes, so no float32 copy of all logits is kept.
    """
    rows, targets = logits.flatten(0, -2), codes.clamp_min(0).flatten()
    chunk = max(1, _CHUNK_VALUES // rows.shape[-1])
    pieces = zip(rows.split(chunk), targets.split(chunk), strict=True)
    if len(targets) <= chunk:
        losses = [_cross_entropy(*piece) for piece in pieces]
    else:
        losses = [checkpoint(_cross_entropy, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    return torch.where(codes >= 0, torch.cat(losses).view(codes.shape), 0.0)


def _cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NV.float(), targets_N, reduction="none")


def target_losses(
    text_logits_BTV: Tensor, audio_logits_BQTV: Tensor, labels_BKT: Tensor, config: "MoshiTTTConfig"
) -> tuple[Tensor, Tensor]:
    """The cross-entropy at every target of the text and of Moshi's codebooks, and its weight: both `[B, 1 + Q, T]`.

    A weight is 0 where a label is below 0, and in the last frames of a delayed codebook, which have no prediction yet.
    """
    text, own = labels_BKT[:, 0], mask_unpredicted(labels_BKT[:, 1 : 1 + config.num_codebooks], config)
    losses = [code_losses(text_logits_BTV, text)[:, None], code_losses(audio_logits_BQTV, own)]
    weights = [text_weights(text, config)[:, None], audio_weights(own, config)]
    return torch.cat(losses, dim=1), torch.cat(weights, dim=1)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """The mean of `losses` by `weights`; 0 where nothing carries weight."""
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, 1.0)


def text_weights(codes_BT: Tensor, config: "MoshiTTTConfig") -> Tensor:
    """Weights `[B, T]` of text targets: `text_padding_weight` on PAD and EPAD, 0 below 0."""
    padding = (codes_BT == config.pad_token_id) | (codes_BT == config.end_pad_token_id)
    return torch.where(padding, float(config.text_padding_weight), 1.0) * (codes_BT >= 0)


def audio_weights(codes_BQT: Tensor, config: "MoshiTTTConfig") -> Tensor:
    """Weights `[B, Q, T]` of audio targets: `first_codebook_weight_multiplier` on codebook 0, 0 below 0."""
    weights = torch.ones_like(codes_BQT, dtype=torch.float32)
    weights[:, 0] = float(config.first_codebook_weight_multiplier)
    return weights * (codes_BQT >= 0)


def mask_unpredicted(codes_BQT: Tensor, config: "MoshiTTTConfig", absent: int = -1) -> Tensor:
    """Audio codes `[..., Q, T]` with `absent` in the last frames of each codebook, which its delay does not predict."""
    length = codes_BQT.shape[-1]
    delays = torch.tensor(config.delays[1 : 1 + codes_BQT.shape[-2]], device=codes_BQT.device)
    predicted = torch.arange(length, device=codes_BQT.device) < length - delays[:, None]
    return torch.where(predicted, codes_BQT, absent)
