#!/bin/sh
# Guess: torch.utils.checkpoint frees all that a function of autograd holds between the passes, and backward sees what
#   the second run of forward has put on ctx.
# Is: attributes of ctx are held from the first run to the backward pass, and are those of the first run;
#   save_for_backward alone is freed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys
import weakref

import torch
from torch.utils.checkpoint import checkpoint

held, runs, used = [], [], []


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        runs.append(len(runs) + 1)
        ctx.tape, ctx.run = x.clone(), runs[-1]
        held.append(weakref.ref(ctx.tape.untyped_storage()))
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        used.append(ctx.run)
        return 2 * ctx.saved_tensors[0] * grad


y = checkpoint(Square.apply, torch.ones(3, requires_grad=True), use_reentrant=False)
alive = held[0]() is not None
y.sum().backward()
print(f"torch {torch.__version__}: alive between the passes: {alive}; {len(runs)} runs, backward uses run {used[0]}")
sys.exit(not (alive and len(runs) == 2 and used == [1]))
PROGRAM
