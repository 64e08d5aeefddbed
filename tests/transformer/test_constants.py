"""Constants are made once for each device, and gradients pass operations with them wherever they were made first."""

import torch

from hf_moshi_ttt.transformer.constants import constant

CPU = torch.device("cpu")


def test_a_constant_is_made_once() -> None:
    assert constant([0, 3, 1], CPU) is constant((0, 3, 1), CPU)
    assert constant([0, 3, 1], CPU).tolist() == [0, 3, 1] and constant([0, 3], CPU).tolist() == [0, 3]
    assert constant([0, 3], torch.device("meta")).device.type == "meta"


def test_one_that_was_made_under_inference_mode_can_be_trained_with() -> None:
    with torch.inference_mode():
        index = constant([2, 2, 0], CPU)
    x = torch.ones(3, requires_grad=True)
    x.gather(0, index).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 0, 2]
