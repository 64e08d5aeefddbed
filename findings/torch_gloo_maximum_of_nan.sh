#!/bin/sh
# Guess: the maximum over processes is NaN where one process has NaN, as torch.max and a sum over processes are.
# Is: over gloo only NaN of the process whose value comes first in the ring stays: that of process 0 for one number, of
#   another one for the next part of a tensor. All processes get the same finite number. Minima are the same.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" << 'PROGRAM'
import socket
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

PROCESSES = 3


def run(rank, port, queue):
    store = dist.TCPStore("127.0.0.1", port, PROCESSES, rank == 0, timedelta(seconds=120))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    found = {}
    for name in ("MAX", "MIN", "SUM"):
        for size in (1, 300):
            for holder in range(PROCESSES):
                values = torch.full((size,), float("nan") if rank == holder else 1.0)
                dist.all_reduce(values, op=getattr(dist.ReduceOp, name))
                found[name, size, holder] = int(values.isnan().sum())
    queue.put(found)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    context = torch.multiprocessing.get_context("spawn")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    queue = context.Queue()
    workers = [context.Process(target=run, args=(rank, port, queue)) for rank in range(PROCESSES)]
    for worker in workers:
        worker.start()
    found, *others = [queue.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    print(f"torch {torch.__version__}: how many are NaN where process 0, 1 or 2 had nothing but NaN")
    names = [(name, size) for name in ("MAX", "MIN", "SUM") for size in (1, 300)]
    left = {(name, size): [found[name, size, holder] for holder in range(PROCESSES)] for name, size in names}
    for (name, size), counts in left.items():
        print(f"{name} of {size}: {counts}")
    is_lost = left["MAX", 1] == left["MIN", 1] == [1, 0, 0] and all(0 < n < 300 for n in left["MAX", 300])
    is_kept = left["SUM", 1] == [1] * 3 and left["SUM", 300] == [300] * 3
    sys.exit(not (is_lost and is_kept and others == [found] * 2))
PROGRAM
PYTHONPATH="$folder/site" ${PYTHON:-python3} "$folder/program.py"
