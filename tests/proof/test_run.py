"""Rungs run one after the other; results are written after each, and what cannot be run is said."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_moshi_ttt.memory.recall_tasks import NaturalTask, PassageTask
from hf_moshi_ttt.proof.plan import CorpusSize, Criterion, Plan, Rung
from hf_moshi_ttt.proof.run import (
    Where,
    make_request,
    needs_codes,
    prepare_codes,
    prove,
    require_own_results,
    require_places,
    without_missing_forms,
)

from ..conftest import save_codes
from ..fixtures.proofs import make_runs, make_series

ARMS = ["full", "static", "ttt"]
MOTIF = Rung("motif", "Does it recall?", "motif", ARMS, [Criterion("motif", low_above=0.8)], size={"steps": 3})
SPEECH = Rung("speech", "And speech?", "refrain", ARMS, [Criterion("refrain")], first_seed_arms=["window"], seeds=1)
VARIANTS = Rung("forms", "Other forms?", "variants", ARMS, [Criterion("phase_0.5")], train_variants=True)
LINES = Rung("lines", "And lines?", "lines", ARMS, [Criterion("lines")], corpus="programmes")
FACTS = {"command": "hf-moshi-ttt prove", "seeds": [4, 5]}


def test_results_are_written_after_each_rung(tmp_path: Path) -> None:
    asked: list[Any] = []

    def run_series(request: Any, folder: Path) -> dict[str, Any]:
        asked.append((request.task, list(request.seeds), folder.name))
        return make_series(make_runs({"full": 1.0, "static": 3.0, "ttt": 1.1}, request.seeds, [request.task]))

    said: list[str] = []
    plan = Plan("Proof", [MOTIF, SPEECH])
    results = prove(plan, plan.rungs, Where(tmp_path / "codes"), tmp_path / "out", FACTS, said.append, run_series)
    assert asked == [("motif", [4, 5], "motif")]
    assert said[0] == "[1/2] motif: Does it recall?" and "motif: 95% [95%, 95%]" in said[1] and "passes" in said[1]
    assert said[-1].startswith("    left out: no codes in ")
    assert results["rungs"][1]["not_run"].startswith(f"no codes in {tmp_path / 'codes' / 'librilight_train'}")
    assert json.loads((tmp_path / "out" / "proof.json").read_text()) == json.loads(json.dumps(results))
    assert "# Proof" in (tmp_path / "out" / "proof.md").read_text()
    assert {"torch", "numpy"} <= set(results["made_with"]) and results["hardware"]["cpus"]


def test_results_of_the_first_rung_outlive_a_stop_in_the_second(tmp_path: Path) -> None:
    def run_series(request: Any, folder: Path) -> dict[str, Any]:
        if folder.name == "again":
            raise SystemExit(143)
        return make_series(make_runs({"full": 1.0, "static": 3.0, "ttt": 1.1}, tests=["motif"]))

    again = Rung("again", "q", "motif", ARMS, [Criterion("motif")])
    with pytest.raises(SystemExit):
        prove(Plan("P"), [MOTIF, again], Where(tmp_path), tmp_path, FACTS, lambda _: None, run_series)
    assert [rung["name"] for rung in json.loads((tmp_path / "proof.json").read_text())["rungs"]] == ["motif"]


def test_a_rung_becomes_a_request(tmp_path: Path) -> None:
    where = Where(tmp_path, "a/codec", 3, "cuda")
    request = make_request(SPEECH, [4, 5], where)
    assert request.runs() == [("full", 4), ("static", 4), ("ttt", 4), ("window", 4)]
    assert request.train_codes == str(tmp_path / "librilight_train")
    assert (request.codec, request.jobs, request.device) == ("a/codec", 3, "cuda")
    assert make_request(MOTIF, [4], where).train_codes is None
    assert (request.variants, request.train_variants) == (None, None)
    forms = make_request(VARIANTS, [4], where)
    assert forms.variants == str(tmp_path / "librilight_heldout_variants.safetensors")
    assert forms.train_variants == str(tmp_path / "librilight_train_variants.safetensors")
    assert make_request(replace(SPEECH, num_codebooks=3), [4], where).num_codebooks == 3
    assert make_request(LINES, [4], where).test_codes == str(tmp_path / "programmes_heldout")
    assert needs_codes([MOTIF, SPEECH]) and not needs_codes([MOTIF])


def test_codes_are_made_by_the_stages_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr("hf_moshi_ttt.demo.stages.run_stages", lambda stages, root, say, run: made.extend(stages))
    size = CorpusSize(train_hours=0.5, programme_hours=0.25)
    assert prepare_codes(tmp_path, size, [SPEECH], print, lambda words: 0) == tmp_path / "codes"
    assert [stage.name for stage in made] == ["corpus", "index", "codec and tokenizer", "encode"]
    assert "0.5" in made[0].commands[0]
    prepare_codes(tmp_path, size, [SPEECH, VARIANTS, LINES], print, lambda words: 0)
    assert [stage.name for stage in made[8:]] == ["programmes", "encode programmes", "variants of librilight"]
    assert "0.25" in made[8].commands[0]


def test_other_forms_are_asked_where_there_is_a_file_of_them(tmp_path: Path) -> None:
    criteria = [Criterion("refrain"), Criterion("phase_0.5")]
    rung = replace(SPEECH, also=["variants"], criteria=criteria, ceilings={"phase_0.5": "refrain"})
    less, missing = without_missing_forms(rung, ["refrain", "same"])
    assert (less.criteria, less.ceilings, missing) == (criteria[:1], {}, ["phase_0.5"])
    assert without_missing_forms(rung, ["refrain", "phase_0.5"]) == (rung, [])


def prove_speech(folder: Path, test: str, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """The request and the results of a rung that asks for `test` too, which the codes in `folder` have not."""
    for part in ("train", "heldout"):
        save_codes(folder / f"librilight_{part}", [700])
    rung = replace(SPEECH, criteria=[Criterion("refrain"), Criterion(test)], num_ids=32, **changes)
    asked: list[Any] = []

    def run_series(request: Any, folder: Path) -> dict[str, Any]:
        asked.append(request)
        return make_series(make_runs({"full": 1.0, "static": 3.0, "ttt": 1.1}, request.seeds))

    found = prove(Plan("P"), [rung], Where(folder), folder, FACTS, lambda _: None, run_series)["rungs"][0]
    (request,) = asked
    return request, found


def test_without_a_file_of_other_forms_the_rung_runs_without_them(tmp_path: Path) -> None:
    request, found = prove_speech(tmp_path, "phase_0.5", also=["variants"])
    assert (request.also, request.variants) == ([], None) and len(found["verdicts"]) == 1
    assert found["left_out"] == f"phase_0.5: not in {tmp_path / 'librilight_heldout_variants.safetensors'}"


def test_a_rung_that_does_not_fit_is_refused_before_any_runs(tmp_path: Path) -> None:
    wrong = replace(MOTIF, name="wrong", criteria=[Criterion("speech")])
    with pytest.raises(ValueError, match="rung 'wrong': test 'speech', but its models are asked motif"):
        prove(Plan("P"), [MOTIF, wrong], Where(tmp_path), tmp_path, FACTS, print, lambda request, folder: {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(criteria=[Criterion("motif", at="9")]), "rung 'motif': at='9', but test 'motif' has 1, 2, 3, 4"),
        (dict(criteria=[Criterion("motif", at="other")]), "at='other', but test 'motif' has 1, 2, 3, 4"),
        (dict(arms=[*ARMS, "ttt+speed=1"]), r"does not know \['speed'\]"),
    ],
)
def test_places_and_arms_that_are_none_are_refused_before_any_runs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    wrong = replace(MOTIF, name="motif", **changes)
    with pytest.raises(ValueError, match=message):
        prove(Plan("P"), [wrong], Where(tmp_path), tmp_path, FACTS, print, lambda request, folder: {})
    assert not list(tmp_path.iterdir())


def test_a_ceiling_has_every_place_of_its_test() -> None:
    codes = [torch.arange(1000)[None] % 64]
    tests = {"refrain": PassageTask(codes, 64), "twice": PassageTask(codes, 64, hearings=2)}
    require_places(replace(SPEECH, ceilings={"twice": "refrain"}), tests)
    every = Criterion("natural", at="hearings", rule="harmless")
    with pytest.raises(ValueError, match="at='hearings', but test 'natural' has other"):
        require_places(replace(SPEECH, criteria=[every]), {"natural": NaturalTask(codes, 64)})
    require_places(replace(SPEECH, criteria=[replace(every, test="twice")]), tests)
    with pytest.raises(ValueError, match="'refrain' has place '3', but its ceiling 'twice' has 1, 2, other"):
        require_places(replace(SPEECH, ceilings={"refrain": "twice"}), tests)


def test_the_results_of_another_plan_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "proof.json"
    require_own_results(path, "mine")
    path.write_text('{"title": "mine"}')
    require_own_results(path, "mine")
    with pytest.raises(ValueError, match="proof.json holds the results of 'mine', but this is 'another': choose"):
        require_own_results(path, "another")
    path.write_text('{"title": "mi')
    with pytest.raises(ValueError, match="proof.json: no results in JSON .* Remove it; the runs beside it are kept"):
        require_own_results(path, "mine")


def test_speakers_that_the_codes_have_not_are_left_out_and_said(tmp_path: Path) -> None:
    request, found = prove_speech(tmp_path, "reader: refrain", apart=["reader"])
    assert request.apart == [] and [verdict["test"] for verdict in found["verdicts"]] == ["refrain"]
    assert found["left_out"] == f"reader: not in {tmp_path / 'librilight_heldout'}"
