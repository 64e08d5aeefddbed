"""Costs are the arithmetic that they claim."""

from dataclasses import replace

import pytest

from hf_moshi_ttt.proof.costs import arm_flops, plan_lines, recipe_lines
from hf_moshi_ttt.proof.plan import Criterion, Plan, Recipe, Rung

RUNG = Rung("a", "q", "motif", ["full", "static", "ttt"], [Criterion("motif")], ["window"], run_sec=30)
RECIPE = Recipe(
    "tiny", {"sliding_window": 4}, {"ttt": {}, "full": {"ttt": None, "sliding_window": 64}}, 2, 1000, 50, 100, 1e9, 0.5,
    ["hf-moshi-ttt train"],
)  # fmt: skip


def test_a_rung_costs_its_runs() -> None:
    title, line, total = plan_lines(Plan("t", [RUNG]), [RUNG], [0, 1, 2], jobs=2)
    assert title == "t"
    assert line.startswith("a: 10 runs of about 30 s, 5 minutes of one core: full, static, ttt, window (one seed); dec")
    assert total == "all: 5 minutes of one core, 2 minutes with --jobs 2"


def test_frozen_weights_cost_four_and_trained_ones_six() -> None:
    count, trained, full = arm_flops(RECIPE, {"ttt": None, "sliding_window": 64})
    assert trained == 0 and full["train"] - 2 * full["eval"] == 50 * 4 * 32 * 4  # scores: a frame sees 50, not 64
    more, own, ttt = arm_flops(RECIPE, {})
    assert more - count == own > 0
    assert ttt["train"] - 2 * ttt["eval"] == 2 * own + 4 * 4 * 32 * 4


def test_gpu_hours_are_flops_over_speed() -> None:
    lines = recipe_lines(RECIPE)
    per_frame = arm_flops(RECIPE, {})[2]
    hours = 2 * (per_frame["train"] * 1000 + per_frame["eval"] * 100) / 0.5e9 / 3600
    assert f"{hours:.1f} GPU hours" in lines[1] and lines[-1] == "hf-moshi-ttt train"
    longer = recipe_lines(replace(RECIPE, train_frames=1_000_000))
    assert longer != lines and "1,000,000 frames a run" in longer[0]


def test_parameters_are_of_the_whole_model() -> None:
    assert arm_flops(RECIPE, {"ttt": None})[0] == pytest.approx(
        arm_flops(RECIPE, {"ttt": None, "sliding_window": 9})[0]
    )
