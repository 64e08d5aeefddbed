"""Made-up runs give the losses, differences, gaps and verdicts that they were made for."""

from typing import Any

import pytest

from hf_moshi_ttt.proof.measure import Losses, measure
from hf_moshi_ttt.proof.plan import Criterion, Rung

from ..fixtures.proofs import make_run, make_runs, make_series

SECONDS = {"full": 1.0, "static": 3.0, "ttt": 1.2}


def make_rung(*criteria: Criterion, **changes: Any) -> Rung:
    given = {"name": "refrain", "question": "q", "task": "refrain", "arms": list(SECONDS)}
    return Rung(**{**given, "criteria": list(criteria), **changes})


def test_gaps_and_differences_are_of_common_seeds() -> None:
    runs = [*make_runs(SECONDS), make_run("window", 0, 2.9)]
    found = measure(make_rung(Criterion("refrain")), make_series(runs), 0.1)
    places = found["tests"]["refrain"]["places"]
    assert list(places) == ["1", "2", "other"] and found["tests"]["refrain"]["last"] == "2"
    assert places["2"]["ttt"]["gap_closed"]["value"] == pytest.approx(0.9)
    assert places["2"]["ttt"]["less_static"]["value"] == pytest.approx(-1.8)
    assert places["2"]["ttt"]["less_static"]["seeds"] == 2 and places["2"]["ttt"]["less_window"]["seeds"] == 1
    assert places["1"]["ttt"]["gap_closed"] is None and places["1"]["ttt"]["headroom"]["value"] == pytest.approx(0)
    assert places["2"]["static"]["less_static"] is None
    assert found["tests"]["refrain"]["positions"]["ttt"] == [1.2] * 39 + [None]
    assert found["arms"]["window"] == {"seeds": [0], "parameters": 50, "train_frames": 640, "cpu_sec": 2.0}


def test_a_ceiling_is_where_full_attention_shows_what_can_be_reached() -> None:
    runs = make_runs(SECONDS, tests=("refrain", "far"))
    for run in runs:
        if run["arm"] == "full":
            run["tests"] = {**run["tests"], "far": make_run("full", run["seed"], 8.0, other=1.0)["tests"]["refrain"]}
    assert Losses(runs, {}, 0.1).gap("ttt", "far", "2").closed is None  # type: ignore[union-attr]
    closed = Losses(runs, {"far": "refrain"}, 0.1).gap("ttt", "far", "2").closed  # type: ignore[union-attr]
    assert closed is not None and closed.value == pytest.approx(0.9)
    others = Losses(runs, {"far": "refrain"}, 0.1).gap("ttt", "far", "other")
    assert others is not None and others.headroom.value == pytest.approx(1.0)  # those of the test itself


def test_a_gap_is_to_the_rungs_reference() -> None:
    runs = [*make_runs(SECONDS), *make_runs({"copy": 2.0})]
    rung = make_rung(Criterion("refrain", least=0.5), arms=[*SECONDS, "copy"], reference="copy")
    found = measure(rung, make_series(runs), 0.1)
    assert found["tests"]["refrain"]["places"]["2"]["ttt"]["gap_closed"]["value"] == pytest.approx(1.8)
    assert found["reference"] == "copy" and found["verdicts"][0]["found"].startswith("180%")


@pytest.mark.parametrize(
    ("criterion", "second", "passes"),
    [
        (Criterion("refrain", least=0.85, low_above=0.8), 1.2, True),
        (Criterion("refrain", least=0.95, low_above=0.8), 1.2, False),
        (Criterion("refrain", low_above=0.9), 1.3, False),
        (Criterion("refrain", at="1"), 1.2, None),
        (Criterion("refrain", at="1", rule="equal"), 1.2, True),
        (Criterion("refrain", rule="equal"), 1.2, False),
        (Criterion("refrain", rule="ahead"), 1.2, True),
        (Criterion("refrain", rule="ahead"), 3.2, False),
        (Criterion("refrain", at="1", rule="ahead"), 1.2, False),
        (Criterion("refrain", rule="harmless"), 1.2, True),
        (Criterion("refrain", rule="harmless"), 3.2, False),
        (Criterion("refrain", at="hearings", rule="harmless"), 3.2, False),
        (Criterion("refrain", at="hearings", rule="ahead"), 1.2, True),
        (Criterion("refrain", at="hearings", rule="equal"), 3.0, True),
        (Criterion("refrain", at="other", rule="harmless"), 1.2, True),
    ],
)
def test_verdicts_follow_their_rules(criterion: Criterion, second: float, passes: bool | None) -> None:
    found = measure(make_rung(criterion), make_series(make_runs({**SECONDS, "ttt": second})), 0.1)
    assert found["verdicts"][0]["passes"] is passes


def test_harm_at_an_earlier_hearing_is_seen_in_all_of_them() -> None:
    runs = make_runs({**SECONDS, "ttt": 3.0})
    for run in runs:
        if run["arm"] == "ttt":
            test = run["tests"]["refrain"]
            first, second = test["hearing_rows"]
            run["tests"] = {"refrain": {**test, "hearing_rows": [[loss + 0.1 for loss in first], second]}}
    criteria = [Criterion("refrain", at=at, rule="harmless") for at in ("last", "hearings")]
    last, every = measure(make_rung(*criteria), make_series(runs), 0.1)["verdicts"]
    assert last["passes"] is True and every["passes"] is False and every["found"].startswith("+0.050 [+0.050, ")


def test_unequal_frames_are_told() -> None:
    runs = make_runs(SECONDS)
    fair = Losses(runs, {}, 0.1).fairness()
    assert fair == {"same_frames_in_order": True, "parameters_less_static": {"full": -50, "static": 0, "ttt": 0}}
    runs[-1]["train_sha256"] = "another order"
    assert not Losses(runs, {}, 0.1).fairness()["same_frames_in_order"]


def test_nothing_is_said_of_arms_that_saw_different_frames_and_one_seed_is_told() -> None:
    runs = make_runs(SECONDS)
    runs[-1]["train_sha256"] = "another order"
    (verdict,) = measure(make_rung(Criterion("refrain")), make_series(runs), 0.1)["verdicts"]
    assert verdict["passes"] is None and verdict["found"].endswith("; arms of a seed saw different frames")
    (verdict,) = measure(make_rung(Criterion("refrain")), make_series(make_runs(SECONDS, seeds=[3])), 0.1)["verdicts"]
    assert verdict["passes"] is True and verdict["found"].endswith("; one seed")


def test_losses_of_a_single_recording_are_told() -> None:
    runs = make_runs(SECONDS)
    for run in runs:
        run["tests"] = {"refrain": {**run["tests"]["refrain"], "hearing_recordings": [[5] * 8] * 2}}
    found = measure(make_rung(Criterion("refrain")), make_series(runs), 0.1)
    assert found["verdicts"][0]["found"].endswith("; one recording")
    places = found["tests"]["refrain"]["places"]
    assert [places[place]["ttt"]["less_static"]["recordings"] for place in ("1", "other")] == [1, 2]


@pytest.mark.parametrize("loss", [None, [1.0] * 7 + [float("nan")], [float("inf")] * 8])
def test_a_run_without_finite_losses_is_refused_by_name(loss: Any) -> None:
    runs = make_runs(SECONDS)
    found = runs[-1]["tests"]["refrain"]
    runs[-1]["tests"] = {"refrain": {**found, "hearing_rows": [found["hearing_rows"][0], loss]}}
    with pytest.raises(ValueError, match="arm 'ttt' of seed 1 has no finite loss of every sequence of 'refrain', 2"):
        measure(make_rung(Criterion("refrain")), make_series(runs), 0.1)


def test_a_place_that_is_none_is_refused() -> None:
    series = make_series(make_runs(SECONDS))
    with pytest.raises(ValueError, match="at='4', but test 'refrain' has 1, 2, other"):
        measure(make_rung(Criterion("refrain", at="4")), series, 0.1)
