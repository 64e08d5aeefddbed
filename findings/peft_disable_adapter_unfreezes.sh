#!/bin/sh
# Guess: after `with model.disable_adapter():`, which shows the model without its adapter, all is as it was before.
# Is: all weights of the active adapter, and copies of modules_to_save, require gradients from then on: those of an
#   adapter that was loaded for inference, and those that were frozen by hand.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    peft==0.21.2 accelerate==1.15.0 torch==2.13.0 transformers==5.24.0 huggingface_hub==2.4.0 tokenizers==0.23.3 \
    safetensors==0.8.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys
from collections import OrderedDict

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model


def make() -> torch.nn.Module:
    return torch.nn.Sequential(OrderedDict(body=torch.nn.Linear(4, 4), head=torch.nn.Linear(4, 2)))


def trained(model: torch.nn.Module) -> int:
    return sum(parameter.requires_grad for parameter in model.parameters())


def before_and_after(model: PeftModel) -> tuple[int, int]:
    before = trained(model)
    with model.disable_adapter():
        model(torch.ones(1, 4))
    return before, trained(model)


model = get_peft_model(make(), LoraConfig(target_modules=["body"], modules_to_save=["head"], r=2))
model.save_pretrained(sys.argv[1])
for name, parameter in model.named_parameters():
    parameter.requires_grad_("lora_B" in name)
by_hand = before_and_after(model)
loaded = before_and_after(PeftModel.from_pretrained(make(), sys.argv[1]))
print(f"peft {peft.__version__}: tensors that require gradients before and after, loaded for inference: {loaded}, "
      f"all but one frozen by hand: {by_hand}")
sys.exit(not (loaded == (0, 4) and by_hand == (1, 4)))
PROGRAM
