"""One number a quantity of a memory."""

import torch

from hf_moshi_ttt.memory.diagnostics import layer_means, means_by_layer, present_frames
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


def test_means_of_all_layers_are_those_of_each() -> None:
    codes = torch.tensor([[[5, 1, -1], [-1, 2, -1]]])
    found = []
    for scale in (1.0, 2.0):
        losses = scale * torch.tensor([[[1.0, 3.0, 100.0]]])
        found.append(MemoryDiagnostics(losses, losses, losses, None, torch.tensor([[0.5]])))
    means = {(layer, name): value.item() for layer, name, value in means_by_layer([3, 7], found, codes)}
    assert {key: value for key, value in means.items() if key[1] == "loss_after"} == {
        (3, "loss_after"): 2.0, (7, "loss_after"): 4.0,
    }  # fmt: skip
    assert len(means) == 8 and list(means_by_layer([3, 7], None, codes)) == []
