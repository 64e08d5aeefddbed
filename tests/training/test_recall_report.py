"""The summary and the table say what the runs found."""

from copy import deepcopy
from typing import Any

import pytest

from hf_moshi_ttt.training.recall_report import summarise, table


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def make_run(arm: str, seed: int, second: float, other_rows: list[float] | None) -> dict[str, Any]:
    other = None if other_rows is None else estimate(sum(other_rows) / len(other_rows))
    test = {"hearings": [estimate(3.0), estimate(second)], "other": other, "other_rows": other_rows}
    test |= {"other_recordings": None}
    return {"arm": arm, "seed": seed, "tests": {"refrain": test}}


RUNS = [
    make_run("static", 0, 3.0, [2.0, 3.0, 4.0]),
    make_run("static", 1, 3.0, [2.2, 3.2, 4.2]),
    make_run("ttt", 0, 1.0, [1.9, 2.9, 4.0]),
    make_run("ttt", 1, 2.0, [2.0, 3.0, 4.1]),
]


def test_losses_are_means_and_ranges_over_seeds() -> None:
    found = summarise(RUNS)["ttt"]["refrain"]
    assert found["hearings"][1] == {"mean": 1.5, "min": 1.0, "max": 2.0, "seeds": 2}
    assert found["other"]["mean"] == pytest.approx((8.8 + 9.1) / 6)


def test_other_frames_are_paired_with_the_control_of_the_same_seed() -> None:
    pair = summarise(RUNS)["ttt"]["refrain"]["other_less_static"]
    assert pair["value"] == pytest.approx((-0.15 - 0.15 - 0.05) / 3)
    assert pair["low"] < pair["value"] < pair["high"]
    assert summarise(RUNS)["static"]["refrain"]["other_less_static"] is None
    for run in (runs := deepcopy(RUNS)):
        run["tests"]["refrain"]["other_recordings"] = [0, 0, 1]
    over_recordings = summarise(runs)["ttt"]["refrain"]["other_less_static"]
    assert over_recordings["value"] == pytest.approx(pair["value"]) and over_recordings["high"] > pair["high"]
    assert summarise(RUNS[2:])["ttt"]["refrain"]["other_less_static"] is None


def test_the_table_has_a_line_for_each_arm() -> None:
    head, static, ttt = table(summarise(RUNS)).splitlines()
    assert head.split("  ")[0] == "arm" and "hearing 2" in head
    assert "1.500 (1.000 to 2.000)" in ttt and "-0.1167 [" in ttt and static.endswith("-")
    whole = summarise(RUNS)
    whole["ttt"]["refrain"]["other_less_static"] = {"value": -0.1, "low": None, "high": None}
    assert table(whole).splitlines()[2].endswith("-0.1000")  # one sequence has no interval
    alone = [make_run("ttt", 0, 1.0, None)]
    assert table(summarise(alone)).splitlines()[1].split() == ["ttt", "refrain", "3.000", "1.000", "-", "-"]
