#!/bin/sh
# Guess: MixedPrecisionPolicy(torch.bfloat16) casts the tensors among the arguments of forward; a dataclass that is no
#   pytree passes as it is.
# Is: tensors inside of plain dataclasses are cast too: forward gets a rounded copy of the state.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - "$folder" << 'PROGRAM'
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


@dataclass
class State:
    memory: torch.Tensor


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x, state):
        self.got = state.memory
        return self.linear(x)


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
state, got = State(torch.tensor([1.001])), {}
for cast in (True, False):
    model = fully_shard(Model(), mp_policy=MixedPrecisionPolicy(torch.bfloat16, cast_forward_inputs=cast))
    model(torch.zeros(1, 2, dtype=torch.bfloat16), state)
    got[cast] = model.got
dist.destroy_process_group()
print(f"torch {torch.__version__}: {state.memory} arrives as {got[True]}, without cast_forward_inputs as {got[False]}")
sys.exit(not (got[True].dtype == torch.bfloat16 and got[False].dtype == torch.float32))
PROGRAM
