#!/bin/sh
# Guess: get_total_norm and clip_grad_norm_ sum bfloat16 gradients in float32 and are right to 1e-6.
# Is: the norm of each tensor and the norm of these norms are rounded to bfloat16: gradients are clipped to a norm that is
#   off by tenths of a percent.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import torch
from torch.nn.utils import clip_grad_norm_

parameters = [torch.nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16)) for _ in range(50)]
for parameter in parameters:
    parameter.grad = torch.full((1000,), 0.011).bfloat16()


def true_norm():
    return float(torch.cat([parameter.grad for parameter in parameters]).double().norm())


before = true_norm()
reported = clip_grad_norm_(parameters, 1.0)
print(f"torch {torch.__version__}: norm {float(reported)} ({reported.dtype}) of {before:.5f}, clipped to {true_norm():.5f}")
sys.exit(not (reported.dtype == torch.bfloat16 and abs(float(reported) - before) > 1e-3 * before))
PROGRAM
