"""The text row and the user's rows of a mono recording."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.utils import logging

from ..special_ids import NO_INPUT_ID

if TYPE_CHECKING:
    from ..configuration_moshi_ttt import MoshiTTTConfig

logger = logging.get_logger(__name__)
USER_STREAMS = ("duplicate", "silence", "none")


def text_row(config: "MoshiTTTConfig", frames: int) -> np.ndarray:
    """The text row `[1, T]` of audio without words, after the configuration's `text_stream`."""
    fill = {"zero": config.end_pad_token_id, "pad": config.pad_token_id, "none": NO_INPUT_ID}[config.text_stream]
    return np.full((1, frames), fill, dtype=np.int64)


def text_codes_without_words(
    config: "MoshiTTTConfig", batch_size: int, frames: int, device: torch.device | str = "cpu"
) -> torch.Tensor | None:
    """What a model that was trained without text is given as text `[B, T]`: its text head has learned nothing.

    None for a model that has a tokenizer, which chooses its text itself. A warning tells it once, as a model may have
    learned text and not name its tokenizer.
    """
    if config.text_tokenizer is not None:
        return None
    logger.warning_once(
        "The model names no text_tokenizer: it is taken for one of audio alone and given the text row of its training "
        f"(text_stream={config.text_stream!r}). If it has learned text, as Kyutai's have, set config.text_tokenizer."
    )
    return torch.from_numpy(text_row(config, frames)).to(device).repeat(batch_size, 1)


def user_rows(config: "MoshiTTTConfig", codes_QT: np.ndarray, silence_codes: Sequence[int] | None) -> np.ndarray:
    """The user's rows `[Q, T]` of a mono recording, after the configuration's `user_stream`.

    Args:
        silence_codes: `[Q]`, one frame of digital silence.

    Raises:
        ValueError: `user_stream="silence"` without its codes.
    """
    if config.user_stream == "duplicate":
        return codes_QT
    if config.user_stream == "none":
        return np.full_like(codes_QT, NO_INPUT_ID)
    if silence_codes is None:
        raise ValueError('user_stream="silence" needs silence_codes; the provenance of the codes holds them.')
    return np.repeat(np.asarray(silence_codes, dtype=np.int64)[:, None], codes_QT.shape[1], axis=1)
