"""Logged means are means over targets, whatever the share of a batch or a process."""

import pytest
import torch

from hf_moshi_ttt.training.log_window import LogWindow

LOSSES = torch.tensor([[[1.0, 2.0, 9.0], [4.0, 6.0, 9.0], [3.0, 5.0, 9.0]]])
WEIGHTS = torch.tensor([[[0.5, 1.0, 0.0], [100.0, 100.0, 0.0], [1.0, 0.0, 0.0]]])


def test_means_are_by_weight_and_by_count() -> None:
    window = LogWindow(num_codebooks=2)
    window.add_losses(LOSSES, WEIGHTS)
    expected = {"text_loss": 2.5 / 1.5, "audio_loss": 1003 / 201, "codebook_0_loss": 5.0, "codebooks_1_1_loss": 3.0}
    assert window.means(lambda sums: sums) == pytest.approx(expected)
    window.add_losses(LOSSES[:, :, :1] + 1, WEIGHTS[:, :, :1])
    assert window.means(lambda sums: sums)["codebook_0_loss"] == pytest.approx((4 + 6 + 5) / 3)
    assert window.means(lambda sums: 2 * sums)["text_loss"] == pytest.approx((2.5 + 1) / 2)


def test_what_has_no_targets_is_left_out() -> None:
    window = LogWindow(num_codebooks=2)
    window.add_losses(LOSSES, WEIGHTS * torch.tensor([0.0, 1.0, 0.0])[:, None])
    assert window.means(lambda sums: sums) == {"audio_loss": 5.0, "codebook_0_loss": 5.0}
    window.clear()
    assert window.means(lambda sums: sums) == {}


def test_a_saved_window_goes_on() -> None:
    whole, first, second = (LogWindow(num_codebooks=2) for _ in range(3))
    for window in (whole, first):
        window.add_losses(LOSSES, WEIGHTS)
    second.load(first.tensors(), torch.device("cpu"))
    for window in (whole, second):
        window.add_losses(LOSSES / 3, WEIGHTS)
    assert second.means(lambda sums: sums) == whole.means(lambda sums: sums)
