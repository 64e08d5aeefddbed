#!/bin/sh
# Guess: a model that is offloaded to a folder overwrites what lies there, or is refused.
# Is: what lies there is taken for its own: the second model answers with the weights of the first, without a word.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 accelerate==1.15.0 safetensors==0.8.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys

import accelerate
import torch

x = torch.ones(1, 3)
first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
answers = [model(x).detach().clone() for model in (first, second)]
offloaded = [accelerate.disk_offload(m, f"{sys.argv[1]}/weights", execution_device="cpu") for m in (first, second)]
got = offloaded[1](x).detach()
print(f"accelerate {accelerate.__version__}: the second model answers {got.tolist()}")
print(f"its own weights give {answers[1].tolist()}, those of the first {answers[0].tolist()}")
sys.exit(not (torch.equal(got, answers[0]) and not torch.equal(got, answers[1])))
PROGRAM
