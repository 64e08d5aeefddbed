#!/bin/sh
# Guess: tensors that safetensors has loaded are copies: what happens to the file later does not matter to them.
# Is: torch's are the pages of the file, mapped and read when needed: when the file is written over in place (as cp and
#   rsync --inplace do), loaded tensors have the new values, a model of transformers the new weights. A page that was
#   written to in memory keeps the old ones. NumPy's tensors are copies, and save_file itself makes a new file.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    safetensors==0.8.0 torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import os
import sys

import numpy as np
import safetensors
import safetensors.numpy
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel


def write_ones_over(path: str) -> None:
    """What cp of a file of the same layout does: the same file, other values."""
    with open(path, "r+b") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start)
        file.write(np.ones((os.path.getsize(path) - start) // 4, np.float32).tobytes())


path = f"{sys.argv[1]}/state.safetensors"
save_file({"state": torch.zeros(1_000_000)}, path)
mapped, copied = load_file(path)["state"], safetensors.numpy.load_file(path)["state"]
mapped[0] = 2.0  # in memory only
write_ones_over(path)
found = [mapped[1].item(), mapped[-1].item(), float(copied[-1])]
print(f"safetensors {safetensors.__version__}: of zeros, beside a value that was set {found[0]}, elsewhere {found[1]}; "
      f"NumPy {found[2]}")

config = GPT2Config(n_layer=1, n_head=1, n_embd=64, vocab_size=64, n_positions=64, bos_token_id=0, eos_token_id=0)
GPT2LMHeadModel(config).save_pretrained(f"{sys.argv[1]}/model")
model = GPT2LMHeadModel.from_pretrained(f"{sys.argv[1]}/model")
with torch.no_grad():
    before = model(torch.arange(8)[None]).logits
    write_ones_over(f"{sys.argv[1]}/model/model.safetensors")
    change = (model(torch.arange(8)[None]).logits - before).abs().max().item()
print(f"the logits of a loaded model change by {change:.1f}")
sys.exit(not (found == [0.0, 1.0, 0.0] and change > 1))
PROGRAM
