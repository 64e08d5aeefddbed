#!/bin/sh
# Guess: on a CPU a transposed convolution over two positions takes as long as reading its weights, as a product does.
# Is: it is not oneDNN's but `slow_conv_transpose2d`, which takes several times as long as the same product of matrices.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
PYTHONPATH="$folder/site" ${PYTHON:-python3} - << 'PROGRAM'
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
x, weight = torch.randn(1, 1024, 2), torch.randn(1024, 512, 16)  # the widest layer of Mimi's decoder in one frame


def own():
    return F.conv_transpose1d(x, weight, stride=8)


def product():
    columns = (x.transpose(1, 2) @ weight.flatten(1)).transpose(1, 2)
    return F.fold(columns, (1, 24), (1, 16), stride=(1, 8))[:, :, 0]


def least_sec(function):
    times = []
    for _ in range(8):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
    equal = torch.allclose(own(), product(), rtol=1e-4, atol=1e-3)
used = sorted({event.key for event in profiler.key_averages() if "conv_transpose2d" in event.key})
with torch.no_grad():
    ratio = least_sec(own) / least_sec(product)
print(f"torch {torch.__version__}: {', '.join(used)} takes {ratio:.1f} times as long as the product; equal: {equal}")
sys.exit(not (equal and "aten::slow_conv_transpose2d" in used and ratio > 3))
PROGRAM
