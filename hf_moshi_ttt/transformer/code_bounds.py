"""What the model takes as codes and labels, checked without making the host wait for a device.

Bounds are checked at once on CPUs; on other devices the codes' are checked when the device comes to them.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..special_ids import NO_INPUT_ID
from .constants import constant

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import MoshiTTTConfig


def require_codes(codes: Tensor, config: "MoshiTTTConfig") -> None:
    """Raises ValueError for anything but a tensor int64 `[B, K, T >= 1]`, each id from -1 to its row's initial one."""
    streams = config.num_streams
    if not isinstance(codes, Tensor):
        found = type(codes).__name__
        raise ValueError(f"codes must be a tensor int64 [B, {streams}, T]; got {found}: torch.as_tensor makes one.")
    if codes.dim() != 3 or codes.shape[1] != streams or codes.shape[2] < 1 or codes.dtype != torch.int64:
        raise ValueError(f"codes must be int64 [B, {streams}, T >= 1]; got {codes.dtype} {list(codes.shape)}.")
    highest = constant([config.text_vocab_size] + [config.codebook_size] * (streams - 1), codes.device)[:, None]
    in_range = ((codes >= NO_INPUT_ID) & (codes <= highest)).all()
    message = f"codes must lie in -1..{config.text_vocab_size} (text) and -1..{config.codebook_size} (audio)"
    if _is_checked_at_once(codes):
        if not in_range:
            raise ValueError(f"{message}; got {codes.amin((0, 2)).tolist()} to {codes.amax((0, 2)).tolist()} by row.")
    else:
        torch._assert_async(in_range, message)  # no wait for the device


def require_labels(labels: Tensor, codes: Tensor, config: "MoshiTTTConfig") -> None:
    """Raises ValueError for labels that are not int64 of the codes' shape or, on CPUs, lie above the vocabularies.

    Only the rows of the text and of Moshi's codebooks are used; ids below 0 carry no loss.
    """
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        found = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be an int64 tensor of the codes' shape; got {found}.")
    if labels.shape != codes.shape:
        raise ValueError(f"labels have shape {list(labels.shape)}, but the codes {list(codes.shape)}.")
    if _is_checked_at_once(labels):
        text, own = labels[:, 0], labels[:, 1 : 1 + config.num_codebooks]
        if text.amax() >= config.text_vocab_size or own.amax() >= config.codebook_size:
            raise ValueError(
                f"labels must lie below {config.text_vocab_size} (text) and {config.codebook_size} (audio), -100 where "
                f"no loss is wanted; got up to {labels.amax((0, 2)).tolist()} by row."
            )


def _is_checked_at_once(ids: Tensor) -> bool:
    return ids.device.type == "cpu" and not torch.compiler.is_compiling()
