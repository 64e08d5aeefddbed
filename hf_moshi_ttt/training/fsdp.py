"""FSDP2 for TTT-Moshi: what is refused, and the memories' start in float32 whatever the rest is cast to.

With bfloat16 FSDP2 hands every parameter to forward rounded, and rounds losses and gradients on their way, and every
tensor in the arguments of forward, carried memory in a plain dataclass too. Here losses stay in float32, gradients are
summed in float32, arguments are not cast, and each learner is sharded before its layer with a policy of its own.
"""

import os
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

_LEARNER = "learner"


def require_what_was_asked(is_asked: bool, is_enabled: bool) -> None:
    """Refuses to train without FSDP where it was asked for.

    Args:
        is_asked: by the settings; accelerate's launcher asks by environment variables.

    Raises:
        ValueError: accelerate has left FSDP out, as it does on CPUs, where it shards nothing.
    """
    by_launcher = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if (is_asked or by_launcher) and not is_enabled:
        raise ValueError("FSDP was asked for, but accelerate shards on GPUs only. Leave fsdp out, or use_cpu.")


def set_up_plugin(plugin: Any, mixed_precision: str) -> None:
    """Checks accelerate's FSDP settings and sets the precision.

    Raises:
        ValueError: FSDP1, or weights that only the first process would load.
    """
    if plugin.fsdp_version != 2:
        raise ValueError(
            f"fsdp_version={plugin.fsdp_version}, but the memory's precision needs FSDP2: fsdp_version: 2."
        )
    if plugin.cpu_ram_efficient_loading:
        raise ValueError(
            "fsdp_cpu_ram_efficient_loading=true, but memories are sharded before that happens. Set it to false; each "
            "process then maps the weights from disk, once for all of them."
        )
    if mixed_precision == "bf16":
        plugin.mixed_precision_policy = _policy(torch.bfloat16)


def _policy(param_dtype: torch.dtype) -> MixedPrecisionPolicy:
    return MixedPrecisionPolicy(param_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)


def shard_learners(model: nn.Module, plugin: Any, mesh: Any) -> None:
    """Shards each learner on its own, with its parameters in float32 in forward.

    Args:
        mesh: of the processes that share a model, None for all of them.
    """
    policy = _policy(torch.float32)
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == _LEARNER and not isinstance(module, FSDPModule):
            fully_shard(
                module,
                mesh=mesh,
                mp_policy=policy,
                reshard_after_forward=plugin.reshard_after_forward,
                offload_policy=plugin.cpu_offload,
            )


def take_sharded_parameters(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]]) -> None:
    """Puts the parameters of groups, which were made again from the sharded model, into those of the optimizer.

    accelerate finds the sharded parameter for one of the optimizer's by the address of its data. A learner is sharded
    before that, and a shard without elements has the address 0, so that all of them become the same parameter.
    """
    for held, group in zip(optimizer.param_groups, groups, strict=True):
        same = (held["name"], len(held["params"])) == (group["name"], len(group["params"]))
        assert same, f"the sharded model has other parameters in group {group['name']}"
        held["params"] = group["params"]


def require_every_parameter(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Raises an error unless the optimizer steps exactly the trained parameters of the sharded model."""
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(held) == len(set(held)) and set(held) == trained, "accelerate has lost parameters while sharding them"
