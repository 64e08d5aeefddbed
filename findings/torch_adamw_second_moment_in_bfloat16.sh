#!/bin/sh
# Guess: with gradients of 1 the second moment of AdamW goes to 1, also in bfloat16, where it ends a rounding error
#   away; fused or not is the same.
# Is: it stalls at 0.5, and at 0.25 where fused: a step of 1e-3 of the rest is below half of bfloat16's spacing there.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import torch

got = {}
for fused in (False, True):
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=0.0, fused=fused)
    for _ in range(10_000):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    got[fused] = optimizer.state[weight]["exp_avg_sq"].item()
print(f"torch {torch.__version__}: exp_avg_sq is {got[False]}, fused {got[True]}")
sys.exit((got[False], got[True]) != (0.5, 0.25))
PROGRAM
