#!/bin/sh
# Guess: the norm of a float32 tensor is as exact as its sum, which torch adds up in a cascade: some 1e-7.
# Is: on CPUs squares are added one after the other to a few running sums in float32, whatever the threads: of 2^25
#   numbers (a large embedding) the norm is 0.2% too small, and clipping leaves gradients as much too long. The root of
#   the summed squares, norms of rows, and dtype=torch.float64 are exact.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
from torch.linalg import vector_norm

weight = torch.nn.Parameter(torch.zeros(2**25))
weight.grad = torch.randn(2**25, generator=torch.Generator().manual_seed(0))
true = weight.grad.double().norm().item()
ways = {
    "norm": weight.grad.norm(),
    "root of the sum": weight.grad.square().sum().sqrt(),
    "norm of norms of rows": vector_norm(vector_norm(weight.grad.view(2**12, -1), dim=1)),
    "norm in float64": vector_norm(weight.grad, dtype=torch.float64),
}
errors = {name: norm.item() / true - 1 for name, norm in ways.items()}
torch.nn.utils.clip_grad_norm_([weight], 1.0)
clipped = weight.grad.double().norm().item()
print(f"torch {torch.__version__}: {', '.join(f'{name} {error:+.1e}' for name, error in errors.items())}")
print(f"gradients clipped to a norm of 1 have {clipped:.5f}")
is_off = -1e-1 < errors.pop("norm") < -1e-4 and clipped > 1.0001
sys.exit(not (is_off and all(abs(error) < 1e-6 for error in errors.values())))
PROGRAM
