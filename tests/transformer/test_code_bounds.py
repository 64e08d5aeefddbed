"""What is no codes or labels is refused with what is allowed; what the model can use is taken."""

from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.transformer.code_bounds import require_codes, require_labels

CONFIG = MoshiTTTConfig.from_preset("tiny")
TEXT, AUDIO, STREAMS = CONFIG.text_vocab_size, CONFIG.codebook_size, CONFIG.num_streams


def codes_with(row: int, value: int) -> torch.Tensor:
    codes = torch.zeros(2, STREAMS, 3, dtype=torch.int64)
    codes[1, row, 2] = value
    return codes


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (
            np.zeros((1, STREAMS, 3), np.int64),
            "codes must be a tensor int64 .*; got ndarray: torch.as_tensor makes one",
        ),
        (torch.zeros(1, STREAMS, 3), r"codes must be int64 \[B, 17, T >= 1\]; got torch.float32"),
        (codes_with(0, TEXT + 1), "codes must lie in -1.."),
        (codes_with(16, -2), "codes must lie in -1.."),
    ],
)
def test_what_is_no_codes_is_refused(codes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_codes(codes, CONFIG)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (codes_with(0, TEXT), f"labels must lie below {TEXT} .text. and {AUDIO} .audio., -100 where"),
        (codes_with(8, AUDIO), f"labels must lie below .* got up to .*{AUDIO}"),
        (codes_with(0, 0).float(), "labels must be an int64 tensor of the codes' shape; got torch.float32"),
        (codes_with(0, 0).numpy(), "labels must be an int64 tensor of the codes' shape; got ndarray"),
        (codes_with(0, 0)[:, :, :2], r"labels have shape \[2, 17, 2\], but the codes \[2, 17, 3\]"),
    ],
)
def test_what_is_no_labels_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_labels(labels, codes_with(0, 0), CONFIG)


def test_all_that_can_be_used_is_taken() -> None:
    """The users' rows of labels are not used, whatever they hold."""
    for codes in (codes_with(0, TEXT), codes_with(16, AUDIO), codes_with(3, -1)):
        require_codes(codes, CONFIG)
    for labels in (codes_with(0, TEXT - 1), codes_with(8, -100), codes_with(9, AUDIO)):
        require_labels(labels, codes_with(0, 0), CONFIG)
