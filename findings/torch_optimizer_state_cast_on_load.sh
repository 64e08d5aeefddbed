#!/bin/sh
# Guess: an optimizer loads the state that it saved: training that is resumed equals training that never stopped.
# Is: torch's load_state_dict casts every floating-point state (but "step") to its parameter's dtype. Adafactor of
#   transformers keeps float32 averages of bfloat16 weights; resumed, they have 8 bits.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
import transformers


def resumed(dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype, float]:
    """Dtypes of Adafactor's averages before and after it is loaded, and by how much they differ after one more step."""
    torch.manual_seed(0)
    gradients = torch.randn(2, 64, 64).to(dtype)
    weights = [torch.nn.Parameter(torch.ones(64, 64, dtype=dtype)) for _ in range(2)]
    never, again = (transformers.Adafactor([w], lr=1e-3, relative_step=False, scale_parameter=False) for w in weights)
    weights[0].grad = gradients[0]
    never.step()
    with torch.no_grad():
        weights[1].copy_(weights[0])
    again.load_state_dict(never.state_dict())
    dtypes = [optimizer.state_dict()["state"][0]["exp_avg_sq_row"].dtype for optimizer in (never, again)]
    for optimizer, weight in zip((never, again), weights):
        weight.grad = gradients[1]
        optimizer.step()
    rows = [optimizer.state_dict()["state"][0]["exp_avg_sq_row"].float() for optimizer in (never, again)]
    return *dtypes, ((rows[1] - rows[0]).abs() / rows[0]).max().item()


half, whole = resumed(torch.bfloat16), resumed(torch.float32)
print(f"torch {torch.__version__}, transformers {transformers.__version__}: bfloat16 weights' averages are {half[0]}, "
      f"loaded {half[1]}, off by {half[2]:.1e} a step later; float32 weights' by {whole[2]}")
sys.exit(not (half[:2] == (torch.float32, torch.bfloat16) and half[2] > 1e-4 and whole[2] == 0))
PROGRAM
