"""What a plan costs before it is run: runs and minutes of rungs, FLOPs and GPU hours of a recipe."""

from collections.abc import Sequence
from typing import Any

import torch

from ..configuration_moshi_ttt import MoshiTTTConfig
from .plan import Plan, Recipe, Rung

_FROZEN, _TRAINED = 4, 6  # FLOPs a weight and frame: forward, for its input, and for itself
_FRAMES_A_HOUR = 45_000


def plan_lines(plan: Plan, rungs: Sequence[Rung], seeds: Sequence[int], jobs: int) -> list[str]:
    """A line for each rung with its runs and their time, and their sum."""
    lines, total_sec = [plan.title], 0.0
    for rung in rungs:
        runs = rung.count_runs(seeds)
        total_sec += runs * rung.run_sec
        arms = ", ".join(rung.arms) + "".join(f", {arm} (one seed)" for arm in rung.first_seed_arms)
        lines.append(
            f"{rung.name}: {runs} runs of about {rung.run_sec:.0f} s, {runs * rung.run_sec / 60:.0f} minutes of "
            f"{plan.timed_on}: {arms}; decided by {', '.join(criterion.test for criterion in rung.criteria)}"
        )
    minutes = total_sec / 60
    lines.append(f"all: {minutes:.0f} minutes of {plan.timed_on}, {minutes / jobs:.0f} minutes with --jobs {jobs}")
    return lines


def recipe_lines(recipe: Recipe) -> list[str]:
    """Parameters, FLOPs and GPU hours of each arm, their sum, and the commands.

    Counted are the weights and the scores of attention; inner steps and adapters are left out, which are small beside
    them, and what checkpointing computes again, as utilisation does.
    """
    hours_of_sound = recipe.train_frames / _FRAMES_A_HOUR
    lines = [
        f"{recipe.train_frames:,} frames a run ({hours_of_sound:,.0f} h of sound) in segments of "
        f"{recipe.segment_frames:,}, {recipe.seeds} seeds; {recipe.eval_frames:,} frames held out"
    ]
    total = 0.0
    for name, changes in recipe.arms.items():
        count, trained, per_frame = arm_flops(recipe, changes)
        forward = per_frame["eval"] * recipe.eval_frames
        flops = recipe.seeds * (per_frame["train"] * recipe.train_frames + forward)
        gpu_hours = flops / (recipe.peak_flops * recipe.utilisation) / 3600
        total += gpu_hours
        lines.append(
            f"{name}: {count:,} parameters, {trained:,} of TTT layers; {per_frame['train'] / 1e9:.1f} GFLOP a frame of "
            f"training; {flops:.2e} FLOP; {gpu_hours:.1f} GPU hours"
        )
    lines.append(
        f"all: {total:.0f} GPU hours at {100 * recipe.utilisation:.0f}% of {recipe.peak_flops / 1e12:.0f} TFLOP/s"
    )
    return [*lines, *recipe.commands]


def arm_flops(recipe: Recipe, changes: dict[str, Any]) -> tuple[int, int, dict[str, float]]:
    """Of an arm's model the parameters, those of its TTT layers, and the FLOPs a frame of `train` and `eval`."""
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration

    config = MoshiTTTConfig.from_preset(recipe.preset, **(recipe.config | changes))
    with torch.device("meta"):
        model = MoshiTTTForConditionalGeneration(config)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    weights = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in tables}
    used = sum(parameter.numel() for parameter in weights.values())
    trained = sum(parameter.numel() for name, parameter in weights.items() if ".ttt" in name)
    seen = min(config.sliding_window, recipe.segment_frames)
    scores = 4 * seen * config.hidden_size * config.num_hidden_layers
    train = _FROZEN * (used - trained) + _TRAINED * trained + 3 * scores
    count = sum(parameter.numel() for parameter in model.parameters())
    return count, trained, {"train": float(train), "eval": float(2 * used + scores)}
