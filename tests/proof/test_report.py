"""The page says the verdicts first, a ratio only where there is headroom, and what was not run."""

from typing import Any

from hf_moshi_ttt.proof.measure import measure
from hf_moshi_ttt.proof.plan import Criterion, Rung
from hf_moshi_ttt.proof.report import to_markdown

from ..fixtures.proofs import make_run, make_runs, make_series


def make_results(full: float) -> dict[str, Any]:
    rung = Rung("refrain", "Does it recall?", "refrain", ["full", "static", "ttt"], [Criterion("refrain", least=0.5)])
    runs = [*make_runs({"full": full, "static": 3.0, "ttt": 1.2}), make_run("window", 0, 2.9)]
    rungs = [measure(rung, make_series(runs), 0.1), {"name": "late", "question": "And later?", "not_run": "no codes"}]
    return {
        "title": "Proof", "command": "hf-moshi-ttt prove", "seeds": [0, 1], "made_with": {"torch": "9"},
        "commit": "abc", "hardware": {"cpus": 2}, "headroom_nats": 0.1, "rungs": rungs,
    }  # fmt: skip


def test_the_page_has_verdicts_and_tables() -> None:
    text = to_markdown(make_results(1.0))
    assert "`hf-moshi-ttt prove`; seeds 0 1; commit abc; torch 9; cpus 2." in text
    assert "| refrain | refrain, hearing 2 | ttt | gap closed at least 50%, interval above 0% | 90% [90%, 90%]" in text
    assert "| **passes** |" in text and "not run: no codes" in text and "Not run: no codes." in text
    assert "All arms of a seed saw the same frames in the same order." in text
    ttt = next(line for line in text.splitlines() if line.startswith("| ttt | 3.0") or line.startswith("| ttt | 2.9"))
    assert ttt.count("|") == 9 and "-1.800 [" in ttt and "| 90% [90%, 90%] |" in ttt
    assert "| window | 0 | 640 | 50 | -50 | 2 |" in text


def test_a_ratio_without_headroom_is_never_printed() -> None:
    results = make_results(2.95)
    text = to_markdown(results)
    assert "no headroom (+0.050 [+0.050, +0.050])" in text and "nothing can be said" in text
    assert "%" not in text.replace("at least 50%, interval above 0%", "")


def test_what_was_left_out_is_said() -> None:
    results = make_results(1.0)
    results["rungs"][0]["left_out"] = "tests of other forms: no file"
    assert "| left out: tests of other forms: no file |" in to_markdown(results)


def test_another_ceiling_and_unequal_frames_are_told() -> None:
    results = make_results(1.0)
    results["rungs"][0]["tests"]["refrain"]["ceiling"] = "near"
    results["rungs"][0]["fairness"]["same_frames_in_order"] = False
    text = to_markdown(results)
    assert "Gaps are to the loss of full at near" in text and "**DIFFERENT FRAMES OR ORDER**" in text
