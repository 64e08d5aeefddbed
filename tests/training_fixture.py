"""Training runs in processes of their own: to be killed anywhere, and to share the work of a run.

A server process has made the imports, so that a run starts at once.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
from dataclasses import dataclass
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
    settings: dict[str, Any],
    processes: int = 1,
    fsdp: str | None = None,
    kill: tuple[int, float] | None = None,
    terminate: tuple[int, int] | None = None,
) -> list[int]:
    """Runs to the end, or until killed; the exit codes of the processes, -9 for a killed one.

    Args:
        fsdp: the type of state dict under FSDP2, or None for DDP.
        kill: the first process kills itself so many seconds after that many writes in the run's folder.
        terminate: the process that gets SIGTERM, and the step in which it does.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    plans = [Plan(processes, port, fsdp) for _ in range(processes)]
    plans[0].kill = kill
    if terminate is not None:
        plans[terminate[0]].terminate_in_step = terminate[1]
    arguments = [(settings, rank, plan) for rank, plan in enumerate(plans)]
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


def require_same_when_killed(
    tmp_path: Path, codes: Path, kills: int, processes: int, fsdp: str | None = None, **mode: Any
) -> None:
    """Kills a run at random places, lets it go on, and compares it with one that was never stopped."""
    seed = int.from_bytes(os.urandom(4), "little")
    draw, drawn = random.Random(seed), []
    whole = tiny_settings(tmp_path / "whole", codes, **mode)
    assert train({**whole, "save_strategy": "no"}, processes, fsdp) == [0] * processes, log_of(tmp_path / "whole")
    killed = tiny_settings(tmp_path / "killed", codes, **mode)
    for _ in range(kills):
        drawn.append((draw.randrange(2, 40), draw.random() * 0.03))
        print(f"seed {seed}: killed after (writes, seconds) {drawn}")
        train(killed, processes, fsdp, kill=drawn[-1])
    assert train(killed, processes, fsdp) == [0] * processes, log_of(tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]


@dataclass
class Plan:
    """What a process does beside training."""

    processes: int
    port: int
    fsdp: str | None
    kill: tuple[int, float] | None = None
    terminate_in_step: int | None = None


def _run(settings: dict[str, Any], rank: int, plan: Plan) -> None:
    log = os.open(f"{settings['output_dir']}-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if plan.processes > 1:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(plan.processes),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(plan.port),
        }  # fmt: skip
    if plan.fsdp is not None:
        shard_on_cpu(plan.fsdp)
    if plan.kill is not None:
        _kill_after(settings["output_dir"], *plan.kill)
    if plan.terminate_in_step is not None:
        _terminate_in(plan.terminate_in_step)
    code = run(settings)
    if plan.processes > 1:
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
        seen: set[str] = set()
        for name, module in trainer.model.named_modules():
            if name.endswith(".learner"):
                module.register_forward_pre_hook(lambda m, _: seen.update(str(p.dtype) for p in m.parameters()))
        run_epoch(trainer, *args, **kwargs)
        Path(f"{trainer.args.output_dir}-dtypes.json").write_text(json.dumps(sorted(seen)))

    ExactTrainer._run_epoch = run_sharded_epoch


def _terminate_in(step: int) -> None:
    """Sends SIGTERM to this process in the middle of a step."""
    training_step = ExactTrainer.training_step

    def terminated(trainer: ExactTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        if trainer.state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(trainer, *args, **kwargs)

    ExactTrainer.training_step = terminated


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
