"""Text and audio losses on logits that are aligned with their codes; codes below 0 carry no loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import MoshiTTTConfig

_KEPT_VALUES = 2**21  # float32 logits of one call that are kept for the backward pass: 8 MiB
_CHUNK_VALUES = 2**23  # of larger ones that are held at once: 32 MiB


def code_losses(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of `logits` `[..., V]` at `codes` `[...]`, in float32 at least; 0 where a code is below 0: `[...]`.

    Large inputs are processed in chunks that the backward pass recomputes, so no float32 copy of all logits is kept.
    """
    return _losses_in_chunks(_cross_entropy, logits, codes, logits.shape[-1])


def head_losses(
    head: nn.Module, states: Tensor, codes: Tensor, vocab_size: int, return_logits: bool = True
) -> tuple[Tensor | None, Tensor]:
    """The logits `[..., V]` of a head, and their `code_losses` `[...]`.

    Args:
        states: `[..., D]`, what the head reads.
        return_logits: False for None in their place; those of large inputs are then never held all at once.
    """
    if return_logits:
        logits = head(states)
        return logits, code_losses(logits, codes)

    def losses(states_ND: Tensor, targets_N: Tensor) -> Tensor:
        return _cross_entropy(head(states_ND), targets_N)

    return None, _losses_in_chunks(losses, states, codes, vocab_size)


def _losses_in_chunks(losses: Callable[..., Tensor], inputs: Tensor, codes: Tensor, vocab_size: int) -> Tensor:
    rows, targets = inputs.flatten(0, -2), codes.clamp_min(0).flatten()
    if len(targets) * vocab_size <= _KEPT_VALUES:
        found = losses(rows, targets)
    else:
        chunk = max(1, _CHUNK_VALUES // vocab_size)
        pieces = zip(rows.split(chunk), targets.split(chunk), strict=True)
        found = torch.cat([checkpoint(losses, *one, use_reentrant=False, preserve_rng_state=False) for one in pieces])
    return torch.where(codes >= 0, found.view(codes.shape), 0.0)


def _cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    return F.cross_entropy(logits_NV, targets_N, reduction="none")


def target_weights(labels_BKT: Tensor, config: "MoshiTTTConfig") -> Tensor:
    """The weight of every target of the text and of Moshi's codebooks, `[B, 1 + Q, T]`.

    It is 0 where a label is below 0, and in the last frames of a delayed codebook, which have no prediction yet.
    """
    text, own = labels_BKT[:, 0], mask_unpredicted(labels_BKT[:, 1 : 1 + config.num_codebooks], config)
    return torch.cat([text_weights(text, config)[:, None], audio_weights(own, config)], dim=1)


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
    rows = zip(codes_BQT.unbind(-2), config.delays[1:], strict=False)
    predicted = [
        F.pad(row[..., : max(0, length - delay)], (0, min(delay, length)), value=absent) for row, delay in rows
    ]
    return torch.stack(predicted, dim=-2)
