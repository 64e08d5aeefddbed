"""Training runs in processes of their own: to be killed anywhere, and to share the work of a run.

A server process has made the imports, so that a run starts at once.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from hf_moshi_ttt.training.exact_trainer import ExactTrainer
from hf_moshi_ttt.training_run import run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training_fixture"])
TIMEOUT_SEC = 240
_WRITES = ("os.mkdir", "os.rename", "os.remove", "shutil.rmtree")


def tiny_settings(output_dir: Path, codes: Path, **changes: Any) -> dict[str, Any]:
    """A run of the tiny model that saves after every second step."""
    own = dict(
        preset="tiny", train_codes=str(codes), output_dir=str(output_dir), duration_sec=0.88, max_steps=8,
        per_device_train_batch_size=2, learning_rate=1e-3, lr_scheduler_type="cosine", logging_steps=1, save_steps=2,
        save_total_limit=2, resume_from_checkpoint=True, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    return {**own, **changes}


def train(
    settings: dict[str, Any], processes: int = 1, fsdp: str | None = None, kill: tuple[int, float] | None = None
) -> list[int]:
    """Runs to the end, or until killed; the exit codes of the processes, -9 for a killed one.

    Args:
        fsdp: the type of state dict under FSDP2, or None for DDP.
        kill: the first process kills itself so many seconds after that many writes in the run's folder.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    arguments = [(settings, rank, processes, port, fsdp, kill if rank == 0 else None) for rank in range(processes)]
    running = [CONTEXT.Process(target=_run, args=given) for given in arguments]
    for process in running:
        process.start()
    for process in running:
        process.join(TIMEOUT_SEC)
        if process.exitcode != 0:  # the others would wait for it
            for other in running:
                other.kill()
    return [process.exitcode for process in running]


def outcome(output_dir: Path) -> tuple[dict[int, float], str]:
    """The loss of every step and the hash of the final weights."""
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    weights = next(path for path in output_dir.glob("*model.safetensors"))
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    return losses, sha256(weights.read_bytes()).hexdigest()


def log_of(output_dir: Path, rank: int = 0) -> str:
    """What a process has printed, of all runs in the folder."""
    return Path(f"{output_dir}-{rank}.log").read_text()


def _run(
    settings: dict[str, Any], rank: int, processes: int, port: int, fsdp: str | None, kill: tuple[int, float] | None
) -> None:
    log = os.open(f"{settings['output_dir']}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
    if fsdp is not None:
        shard_on_cpu(fsdp)
    if kill is not None:
        _kill_after(settings["output_dir"], *kill)
    code = run(settings)
    if processes > 1:
        torch.distributed.destroy_process_group()
    sys.exit(code)


def shard_on_cpu(state_dict_type: str) -> None:
    """Real FSDP2 over gloo, which accelerate itself leaves out on CPUs."""
    create = ExactTrainer.create_accelerator_and_postprocess

    def create_with_fsdp(trainer: ExactTrainer) -> None:
        create(trainer)
        state = trainer.accelerator.state
        state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, state_dict_type=state_dict_type, auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False, reshard_after_forward=True,
        )  # fmt: skip
        trainer.is_fsdp_enabled = True

    ExactTrainer.create_accelerator_and_postprocess = create_with_fsdp
    run_epoch = ExactTrainer._run_epoch

    def run_sharded_epoch(trainer: ExactTrainer, *args: Any, **kwargs: Any) -> None:
        assert all(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
        run_epoch(trainer, *args, **kwargs)

    ExactTrainer._run_epoch = run_sharded_epoch


def _kill_after(folder: str, writes: int, delay_sec: float) -> None:
    """Kills this process some time after a number of writes in a folder."""
    left = writes

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        is_write = event in _WRITES or (event == "open" and arguments[1] not in (None, "r", "rb"))
        if is_write and str(arguments[0]).startswith(folder):
            left -= 1
            if left == 0:
                threading.Timer(delay_sec, os.kill, (os.getpid(), signal.SIGKILL)).start()

    sys.addaudithook(watch)
