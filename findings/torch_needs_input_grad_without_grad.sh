#!/bin/sh
# Guess: under torch.no_grad() a function of autograd sees ctx.needs_input_grad False and so knows that it need keep
#   nothing.
# Is: it is True for every input that requires a gradient, and torch.is_grad_enabled() is False inside of forward in
#   both cases: forward cannot tell.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import torch

seen = []


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        seen.append((ctx.needs_input_grad[0], torch.is_grad_enabled()))
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


x = torch.ones(1, requires_grad=True)
Double.apply(x)
with torch.no_grad():
    Double.apply(x)
print(f"torch {torch.__version__}: (needs_input_grad, is_grad_enabled) is {seen[0]} with gradients, {seen[1]} without")
sys.exit(seen != [(True, False), (True, False)])
PROGRAM
