#!/bin/sh
# Guess: accelerator.prepare puts every sharded parameter of a model that is sharded in part already into the optimizer,
#   in every process.
# Is: it finds them by the address of their data. Shards without elements (fewer rows than processes) all have the
#   address 0, so that such a process's optimizer holds one of these parameters several times and the others never.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
${PYTHON:-python3} -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$folder/site" \
    accelerate==1.15.0 torch==2.13.0 numpy==2.4.6
cat > "$folder/program.py" << 'PROGRAM'
import os
import socket
import sys

import accelerate
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import fully_shard


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = torch.nn.Linear(3, 1)  # one row for two processes: the second one's shard is empty
        self.scale = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.scale(self.heads(x))


def run(rank, port, queue):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap", cpu_ram_efficient_loading=False)
    accelerator = Accelerator(cpu=True)
    # accelerate leaves FSDP out on CPUs; on GPUs this is its state.
    accelerator.state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    model = Model()
    fully_shard(model.heads)  # with settings of its own, before the rest
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    queue.put((rank, [names[id(p)] for group in optimizer.param_groups for p in group["params"]]))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    context = torch.multiprocessing.get_context("spawn")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    queue = context.Queue()
    workers = [context.Process(target=run, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    held = dict(queue.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()
    print(f"accelerate {accelerate.__version__}: the optimizer of process 0 holds {held[0]}, of process 1 {held[1]}")
    sys.exit(not (len(set(held[0])) == 4 and len(set(held[1])) < 4))
PROGRAM
PYTHONPATH="$folder/site" ${PYTHON:-python3} "$folder/program.py"
