"""Text and audio losses on logits that are aligned with their codes; codes below 0 carry no loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .configuration_moshi_ttt import MoshiTTTConfig


def code_losses(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy in float32 of `logits` `[..., V]` at `codes` `[...]`, and 0 where a code is below 0: `[...]`."""
    target = codes.clamp_min(0)
    losses = F.cross_entropy(logits.flatten(0, -2).float(), target.flatten(), reduction="none").view(codes.shape)
    return torch.where(codes >= 0, losses, 0.0)


def text_loss(logits_BTV: Tensor, codes_BT: Tensor, config: MoshiTTTConfig) -> Tensor:
    """Weighted mean over the text row; 0 where nothing carries weight."""
    return _weighted_mean(code_losses(logits_BTV, codes_BT), text_weights(codes_BT, config))


def text_weights(codes_BT: Tensor, config: MoshiTTTConfig) -> Tensor:
    """Weights `[B, T]` of text targets: `text_padding_weight` on PAD and EPAD, 0 below 0."""
    padding = (codes_BT == config.pad_token_id) | (codes_BT == config.end_pad_token_id)
    return torch.where(padding, float(config.text_padding_weight), 1.0) * (codes_BT >= 0)


def audio_loss(logits_BQTV: Tensor, codes_BQT: Tensor, config: MoshiTTTConfig) -> Tensor:
    """Weighted mean over Moshi's codebooks.

    Frames at the end for which a delayed codebook has no prediction yet carry no weight.
    """
    codes_BQT = mask_unpredicted(codes_BQT, config)
    return _weighted_mean(code_losses(logits_BQTV, codes_BQT), audio_weights(codes_BQT, config))


def audio_weights(codes_BQT: Tensor, config: MoshiTTTConfig) -> Tensor:
    """Weights `[B, Q, T]` of audio targets: `first_codebook_weight_multiplier` on codebook 0, 0 below 0."""
    weights = torch.ones_like(codes_BQT, dtype=torch.float32)
    weights[:, 0] = float(config.first_codebook_weight_multiplier)
    return weights * (codes_BQT >= 0)


def mask_unpredicted(codes_BQT: Tensor, config: MoshiTTTConfig) -> Tensor:
    """Audio codes with -1 in the last frames of each codebook that its delay leaves without a prediction."""
    length = codes_BQT.shape[-1]
    delays = torch.tensor(config.delays[1 : 1 + codes_BQT.shape[1]], device=codes_BQT.device)
    predicted = torch.arange(length, device=codes_BQT.device) < length - delays[:, None]
    return torch.where(predicted, codes_BQT, -1)


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum()
    return (losses * weights).sum() / torch.where(total > 0, total, 1.0)
