#!/bin/sh
# Guess: get_optimizer_state_dict reads: training goes on as if it had not been called.
# Is: before the first step it takes one with gradients of 0, which is counted. The first real step of AdamW is then
#   0.744 of what it is otherwise, that of SGD with a dampening of 0.9 a tenth.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def first_step(make, is_read: bool) -> float:
    """How far the first step moves a weight whose gradient is 1, with a learning rate of 0.1."""
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = make(model.parameters())
    before = model.weight.item()
    if is_read:
        get_optimizer_state_dict(model, optimizer)
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    return round(before - model.weight.item(), 4)


optimizers = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.0),
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.9),
}
found = {name: [first_step(make, is_read) for is_read in (False, True)] for name, make in optimizers.items()}
print(f"torch {torch.__version__}: the first step, without and with reading the state before it: {found}")
sys.exit(found != {"AdamW": [0.1, 0.0744], "SGD": [0.1, 0.01]})
PROGRAM
