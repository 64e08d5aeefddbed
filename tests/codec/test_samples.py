"""Samples of any type are scaled to [-1, 1] or refused; nothing is taken for what it is not."""

from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.codec.samples import float_samples

WAVE = np.array([0.0, 0.5, -0.25, -1.0])


@pytest.mark.parametrize(
    "samples",
    [
        WAVE, WAVE.astype(np.float32), WAVE.astype(np.float16), WAVE.tolist(), torch.tensor(WAVE),
        torch.tensor(WAVE, dtype=torch.bfloat16), (WAVE * 2**15).astype(np.int16), (WAVE * 2**31).astype(np.int32),
        torch.tensor(WAVE * 2**15).short(),
    ],
    ids=lambda samples: str(getattr(samples, "dtype", type(samples))),
)  # fmt: skip
def test_types_are_scaled_to_one(samples: Any) -> None:
    found = float_samples(samples)
    assert found.dtype == np.float32 and np.array_equal(found, WAVE)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(3, np.uint8), "samples are uint8, but must be floats in .*, or int16 or int32, which are scaled"),
        (np.zeros(3, np.int64), "samples are int64"),
        ([0, 1, 2], "samples are int64"),
        (np.zeros(3, bool), "samples are bool"),
        (np.zeros(3, complex), "samples are complex128"),
        (WAVE * 32_767, "the peak is 32767, but samples lie in .*: they look like integers stored as floats"),
        (WAVE * 127, "the peak is 127"),
        ([0.0, np.nan], "holds samples that are NaN or infinite"),
        ([0.0, -np.inf], "holds samples that are NaN or infinite"),
    ],
)
def test_what_cannot_be_scaled_is_refused(samples: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        float_samples(samples)


def test_hot_recordings_and_empty_ones_are_taken() -> None:
    assert float_samples([2.5, -7.9]).tolist() == pytest.approx([2.5, -7.9])
    assert float_samples(np.zeros((2, 0))).shape == (2, 0)
