#!/bin/sh
# Guess: after an evaluation (forward without backward) the weights of an FSDP2 model can be changed, by an optimizer's
#   step or in place, and the next forward pass uses them.
# Is: the outermost module's own parameters stay whole after forward, until a backward pass. An optimizer steps its
#   shards, which the next forward pass does not read; in place, model.parameters() gives the whole copy, which the next
#   backward pass drops. With reshard_after_forward=True, or after model.reshard(), all is as guessed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard


def make(**options) -> torch.nn.Module:
    """Two weights of 1, one in a module of its own, one in the outermost group: the output is their product."""
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1, bias=False) for _ in range(2)))
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    fully_shard(model[0], **options)
    return fully_shard(model, **options)


def evaluate(model: torch.nn.Module) -> float:
    with torch.no_grad():
        return model(torch.ones(1, 1)).item()


def stepped(**options) -> list[float]:
    """What is computed after a step of SGD that halves both weights, then after reshard; before the step was 1."""
    model = make(**options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.ones(1, 1)).sum().backward()
    evaluate(model)
    optimizer.step()
    outputs = [evaluate(model)]
    model.reshard()
    return [*outputs, evaluate(model)]


def doubled(**options) -> list[float]:
    """The same of doubling both in place, then after a step of training with a learning rate of 0."""
    model = make(**options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    evaluate(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    outputs = [evaluate(model)]
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    return [*outputs, evaluate(model)]


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
found = stepped(), doubled()
resharded = stepped(reshard_after_forward=True), doubled(reshard_after_forward=True)
dist.destroy_process_group()
print(f"torch {torch.__version__}: weights halved by a step after an evaluation, 0.25 is right: {found[0]}")
print(f"doubled in place after an evaluation, 4 is right: {found[1]}")
print(f"both with reshard_after_forward=True: {resharded}")
sys.exit(not (found == ([0.5, 0.25], [4.0, 2.0]) and resharded == ([0.25, 0.25], [4.0, 4.0])))
PROGRAM
