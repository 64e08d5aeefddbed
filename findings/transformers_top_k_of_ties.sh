#!/bin/sh
# Guess: top_k=4 leaves 4 tokens to draw from.
# Is: every token that is as likely as the fourth stays: 6 of 8 here; in bfloat16, whose logits have 8 bits, ties are
#   common.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 safetensors==0.8.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import torch
import transformers

logits = torch.tensor([[4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.0, -1.0]])
left = int(transformers.TopKLogitsWarper(top_k=4)(None, logits).isfinite().sum())
print(f"transformers {transformers.__version__}: top_k=4 leaves {left} tokens")
sys.exit(left != 6)
PROGRAM
