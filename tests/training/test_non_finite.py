"""What is not finite is named."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from hf_moshi_ttt.training.non_finite import non_finite_gradients, non_finite_names, non_finite_weights

from ..fixtures.training_runs import CONTEXT, TIMEOUT_SEC

CPU = torch.device("cpu")


def test_gradients_and_weights_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[2].requires_grad_(False)
    assert non_finite_gradients(model, CPU) == non_finite_weights(model, CPU) == []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[0].weight.grad[0, 1] = torch.inf
    model[1].bias.grad[1] = torch.nan
    assert non_finite_gradients(model, CPU) == ["1.bias", "0.weight"]
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
        model[1].weight[0, 0] = -torch.inf
    assert non_finite_weights(model, CPU) == ["1.weight"]


def _names_on(rank: int, folder: str) -> None:
    """What a process of two finds where the second one's part alone is not finite."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    named = [("a", torch.ones(2)), ("b", torch.tensor([1.0, torch.nan if rank == 1 else 1.0]))]
    Path(folder, str(rank)).write_text(repr(non_finite_names(named, CPU)))
    dist.destroy_process_group()


def test_all_processes_name_what_one_of_them_has(tmp_path: Path) -> None:
    running = [CONTEXT.Process(target=_names_on, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for process in running:
        process.start()
    for process in running:
        process.join(TIMEOUT_SEC)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["['b']", "['b']"]
