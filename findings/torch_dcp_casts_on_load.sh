#!/bin/sh
# Guess: torch.distributed.checkpoint.load refuses a tensor of another dtype, as it refuses another shape.
# Is: it casts into whatever is there: 1.001 in float32 comes back as 1.0 in bfloat16 and as 1 in int64, without a
#   word.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import torch
import torch.distributed.checkpoint as dcp

dcp.save({"weight": torch.full((4,), 1.001)}, checkpoint_id=f"{sys.argv[1]}/checkpoint", no_dist=True)
got = {}
for dtype in (torch.float32, torch.bfloat16, torch.int64):
    weights = {"weight": torch.zeros(4, dtype=dtype)}
    dcp.load(weights, checkpoint_id=f"{sys.argv[1]}/checkpoint", no_dist=True)
    got[dtype] = weights["weight"][0].item()
print(f"torch {torch.__version__}: 1.001 comes back as {got}")
sys.exit(list(got.values())[1:] != [1.0, 1])
PROGRAM
