"""The step of gradient descent that each row takes on its own loss.

Legend: B batch, K streams, Q Moshi's codebooks, C frames of a chunk.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..configuration_moshi_ttt import MoshiTTTConfig
from ..transformer.losses import target_weights
from ..transformer.stream_state import per_row


def row_losses(losses: Tensor, codes_BKC: Tensor, config: MoshiTTTConfig) -> Tensor:
    """The loss of each row `[B]`, weighted as the model's own is; 0 for a row in which no code has a loss.

    Args:
        losses: `[B, 1 + Q, C]`, of the model at these codes.
    """
    weights = target_weights(codes_BKC, config).to(losses.dtype)
    text, audio = (_row_means(losses[:, rows], weights[:, rows]) for rows in (slice(0, 1), slice(1, None)))
    return config.text_loss_weight * text + audio


def _row_means(losses: Tensor, weights: Tensor) -> Tensor:
    totals_B = weights.sum((1, 2))
    return (losses * weights).sum((1, 2)) / torch.where(totals_B > 0, totals_B, 1.0)


def row_steps(
    losses_B: Tensor, weights: Sequence[Tensor], max_norm: float, second_order: bool, retain_graph: bool
) -> tuple[tuple[Tensor, ...], Tensor]:
    """The gradient of each row's loss for its own weights, cut to a norm of at most `max_norm`, and its norm before.

    Rows do not read each other's weights, so the gradient of the sum holds that of each.

    Args:
        weights: `[B, ...]`, each with its own row's weights.
        second_order: whether the result can be differentiated.

    Returns:
        Tensors of the weights' shapes, and the norms `[B]`.
    """
    found = torch.autograd.grad(losses_B.sum(), list(weights), create_graph=second_order, retain_graph=retain_graph)
    squares_B = torch.stack([gradient.square().flatten(1).sum(1) for gradient in found]).sum(0)
    too_long_B = squares_B > max_norm**2
    # A root has no derivative at zero, so it is taken only of what is cut.
    factors_B = torch.where(too_long_B, max_norm / torch.where(too_long_B, squares_B, 1.0).sqrt(), 1.0)
    return tuple(per_row(factors_B, gradient) * gradient for gradient in found), squares_B.detach().sqrt()
