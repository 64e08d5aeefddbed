"""Text and audio losses on logits that are aligned with their codes; codes below 0 carry no loss."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import MoshiTTTConfig

_KEPT_VALUES = 2**21  # float32 logits of one call that are kept for the backward pass: 8 MiB
_CHUNK_VALUES = 2**23  # of larger ones that are held at once: 32 MiB
_GPU_CHUNK_VALUES = 2**25  # and where a chunk costs the kernels that it starts: 128 MiB


def code_losses(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross-entropy of `logits` `[..., V]` at `codes` `[...]`, in float32 at least; 0 where a code is below 0: `[...]`.

    Large inputs are processed in chunks that the backward pass recomputes, so no float32 copy of all logits is kept.
    """
    return _losses_in_chunks(_cross_entropy, logits, codes, logits.shape[-1])


def head_losses(
    head: Callable[[Tensor], Tensor], states: Tensor, codes: Tensor, vocab_size: int, return_logits: bool = True
) -> tuple[Tensor | None, Tensor]:
    """The logits `[..., V]` of a head, and their `code_losses` `[...]`.

    Args:
        states: `[..., D]`, what the head reads.
        return_logits: False for None in their place; those of large inputs are then never held all at once.
    """
    if return_logits:
        logits = head(states)
        return logits, code_losses(logits, codes)
    return None, _losses_in_chunks(_of_head(head), states, codes, vocab_size)


def codebook_losses(heads: Callable[[Tensor], Tensor], states_QND: Tensor, codes_QN: Tensor, vocab_size: int) -> Tensor:
    """`code_losses` `[Q, N]` of the logits `[Q, n, V]` that the heads of all codebooks make of some rows at once."""
    return _losses_in_chunks(_of_head(heads), states_QND, codes_QN, vocab_size, of_codebooks=True)


def _of_head(head: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda states, targets: _cross_entropy(head(states), targets)


def _losses_in_chunks(
    losses: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    codes: Tensor,
    vocab_size: int,
    of_codebooks: bool = False,
) -> Tensor:
    """In chunks of rows, or, of codebooks, of each one's rows."""
    codebooks, rows, targets = 1, inputs, codes.clamp_min(0)
    if of_codebooks:
        codebooks = len(inputs)
    else:
        rows, targets = inputs.flatten(0, -2), targets.flatten()
    if targets.numel() * vocab_size <= _KEPT_VALUES:
        found = losses(rows, targets)
    else:
        values = _CHUNK_VALUES if inputs.device.type == "cpu" else _GPU_CHUNK_VALUES
        chunk = max(1, values // (vocab_size * codebooks))
        pieces = zip(rows.split(chunk, dim=-2), targets.split(chunk, dim=-1), strict=True)
        parts = [checkpoint(losses, *one, use_reentrant=False, preserve_rng_state=False) for one in pieces]
        found = torch.cat(parts, dim=-1)
    return torch.where(codes >= 0, found.view(codes.shape), 0.0)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """`[...]` of logits `[..., V]` at codes `[...]`."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view(targets.shape)


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
    from .delays import runs_of_delay

    length = codes_BQT.shape[-1]
    runs = runs_of_delay(codes_BQT, config.delays[1 : 1 + codes_BQT.shape[-2]])
    predicted = [
        F.pad(run[..., : max(0, length - delay)], (0, min(delay, length)), value=absent) for run, delay in runs
    ]
    return torch.cat(predicted, dim=-2)
