#!/bin/sh
# Guess: groups of parameters that take the optimizer's learning rate have one each, as a number or as a tensor.
# Is: a tensor (as compiled and captured steps want it) is one for all of them. A schedule with a function for each
#   group writes each one's rate into it, and all have the last group's.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch


def steps(rate: float | torch.Tensor) -> list[float]:
    """How far AdamW moves the weight of each of two groups; the second group's rate is to be ten times as high."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [weight]} for weight in weights], lr=rate)
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 1.0, lambda step: 10.0])
    for weight in weights:
        weight.grad = torch.ones(1)
    optimizer.step()
    return [round(-weight.item(), 4) for weight in weights]


found = steps(0.01), steps(torch.tensor(0.01))
print(f"torch {torch.__version__}: steps of two groups with a number {found[0]}, with a tensor {found[1]}")
sys.exit(found != ([0.01, 0.1], [0.1, 0.1]))
PROGRAM
