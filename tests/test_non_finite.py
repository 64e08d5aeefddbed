"""What is not finite is named."""

import torch
from torch import nn

from hf_moshi_ttt.training.non_finite import non_finite_gradients, non_finite_weights

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
