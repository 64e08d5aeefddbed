"""One number a quantity of a memory."""

import torch

from hf_moshi_ttt.memory.diagnostics import layer_means, present_frames
from hf_moshi_ttt.memory.naive import MemoryDiagnostics


def test_means_leave_padding_out_and_take_the_size_of_the_gate() -> None:
    losses = torch.tensor([[[1.0, 3.0, 100.0]]])
    found = MemoryDiagnostics(
        losses, losses, losses, None, torch.tensor([[0.5]]), torch.tensor([-0.5, 0.1]), torch.tensor([[0.2, 0.4, 9.0]])
    )
    means = layer_means(found, torch.tensor([[True, True, False]]))
    assert {name: round(value.item(), 6) for name, value in means.items()} == {
        "loss_initial": 2.0, "loss_before": 2.0, "loss_after": 2.0, "key_dependent_share": 0.5, "gate": 0.3,
        "branch_to_residual": 0.3,
    }  # fmt: skip


def test_padding_is_a_frame_of_absent_codes() -> None:
    codes = torch.tensor([[[5, -1, -1], [-1, 2, -1]]])
    assert present_frames(codes).tolist() == [[True, True, False]]
