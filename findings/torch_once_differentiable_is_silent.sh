#!/bin/sh
# Guess: a backward marked `once_differentiable` raises where it is differentiated, so a Hessian through it is an error.
# Is: `.backward()` raises, if the incoming gradient itself requires one; `torch.autograd.grad` and `functional.hessian`
# leave the function's part out without a word, as long as there is another way to the input.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
from torch.autograd.function import once_differentiable


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


def second(function):
    return float(torch.autograd.functional.hessian(function, torch.tensor(2.0)))


def by_backward(function):
    x = torch.tensor(2.0, requires_grad=True)
    (grad,) = torch.autograd.grad(function(x), x, create_graph=True)
    try:
        grad.backward()
    except RuntimeError as error:
        return str(error)
    return float(x.grad)


plus, times = (lambda x: Cube.apply(x) + x**2), (lambda x: Cube.apply(x) * x)
found = second(plus), second(times), by_backward(plus), by_backward(times)
true = second(lambda x: x**3 + x**2), second(lambda x: x**4)
print(f"torch {torch.__version__}: Hessians of x^3 + x^2 and of x^3 x at 2 are {true}; with x^3 marked {found[:2]};")
print(f"by backward() {found[2:]}")
sys.exit(not (true == (14, 48) and found[:3] == (2, 12, 2) and "once_differentiable" in str(found[3])))
PROGRAM
