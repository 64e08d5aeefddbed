"""Runs are made once for the same settings, kept on disk, and wrong settings are refused before any runs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers.utils import logging

from hf_moshi_ttt.memory.line_tasks import SaidRecording
from hf_moshi_ttt.memory.variant_tasks import RenderedRecording, Rendering
from hf_moshi_ttt.training import recall_series, recall_variants
from hf_moshi_ttt.training.non_finite import NonFiniteError
from hf_moshi_ttt.training.recall_series import RecallRequest, run_series
from hf_moshi_ttt.training.recall_setup import arm_config

from ..conftest import save_codes


@pytest.fixture(autouse=True)
def same_verbosity() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


class StandIn:
    """In place of `run_arm`: trains nothing and keeps which runs were made."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []

    def __call__(self, setup: Any, arm: str, seed: int, on_step: Any) -> dict[str, Any]:
        self.made.append((arm, seed))
        on_step()
        estimate = {"value": float(seed), "low": 0.0, "high": 9.0}
        tests = {"motif": {"hearings": [estimate], "other": None, "other_rows": None}}
        return {"arm": arm, "seed": seed, "parameters": 5, "sec": 0.1, "train_losses": [], "tests": tests}


def make_request(**changes: Any) -> RecallRequest:
    given = {"task": "motif", "arms": ["ttt", "static"], "seeds": [0, 1], "changes": {"steps": 3}, "jobs": 1}
    return RecallRequest(**{**given, **changes})


def test_a_run_that_is_kept_is_not_made_again(tmp_path: Path) -> None:
    stand = StandIn()
    first = run_series(make_request(), tmp_path, stand)
    assert stand.made == [("ttt", 0), ("ttt", 1), ("static", 0), ("static", 1)]
    assert first["summary"]["ttt"]["motif"]["hearings"][0] == {"mean": 0.5, "min": 0.0, "max": 1.0, "seeds": 2}
    more = run_series(make_request(seeds=[0, 1, 2]), tmp_path, stand)
    assert stand.made[4:] == [("ttt", 2), ("static", 2)] and len(more["runs"]) == 6
    run_series(make_request(arms=["ttt"], seeds=[0], changes={"steps": 4}), tmp_path, stand)
    assert stand.made[6:] == [("ttt", 0)]


def test_a_run_of_other_settings_overwrites_none(tmp_path: Path) -> None:
    stand = StandIn()
    for steps in (3, 4, 3):
        run_series(make_request(arms=["ttt"], seeds=[0], changes={"steps": steps}), tmp_path, stand)
    assert stand.made == [("ttt", 0)] * 2 and len(list((tmp_path / "runs").iterdir())) == 2


def test_a_run_of_other_code_or_data_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [str(save_codes(tmp_path / name, [1200])) for name in ("train", "test")]
    given = dict(task="refrain", train_codes=folders[0], test_codes=folders[1], num_ids=32, arms=["ttt"], seeds=[0])
    stand = StandIn()
    run_series(make_request(**given), tmp_path, stand)
    run_series(make_request(**given), tmp_path, stand)
    assert len(stand.made) == 1
    shutil.rmtree(folders[0])
    save_codes(tmp_path / "train", [1300])
    run_series(make_request(**given), tmp_path, stand)
    assert len(stand.made) == 2
    monkeypatch.setattr("hf_moshi_ttt.training.kept_runs.code_sha256", lambda: "changed, without a commit")
    run_series(make_request(**given), tmp_path, stand)
    assert len(stand.made) == 3


def test_an_arm_that_diverges_is_named(tmp_path: Path) -> None:
    def diverge(setup: Any, arm: str, seed: int, on_step: Any) -> dict[str, Any]:
        raise NonFiniteError("Step 2 gave NaN.")

    with pytest.raises(NonFiniteError, match="arm 'ttt' of seed 0: Step 2 gave NaN. It proves nothing: lower"):
        run_series(make_request(), tmp_path, diverge)


def test_further_arms_run_with_the_first_seed(tmp_path: Path) -> None:
    stand = StandIn()
    results = run_series(make_request(arms=["ttt"], first_seed_arms=["window"]), tmp_path, stand)
    assert stand.made == [("ttt", 0), ("ttt", 1), ("window", 0)] and len(results["runs"]) == 3
    run_series(make_request(arms=["ttt"], also=["control"]), tmp_path, stand)
    assert stand.made[3:] == [("ttt", 0), ("ttt", 1)]


def test_the_results_say_what_made_them(tmp_path: Path) -> None:
    results = json.loads(json.dumps(run_series(make_request(), tmp_path, StandIn())))
    assert results["schema"] == 1 and results["size"]["steps"] == 3 and results["settings"]["seeds"] == [0, 1]
    assert {"torch", "hf_moshi_ttt"} <= set(results["made_with"]) and "commit" in results and results["hardware"]
    assert results["chance_nats"] == pytest.approx(3.4657, abs=1e-3)
    assert results["runs"][0]["settings"]["config"]["ttt.learner"] == "ttt"


def test_settings_are_read_from_the_command_line() -> None:
    request = RecallRequest.parse(
        ["hidden_size=32", "learning_rate=1e-3"], 7, task="motif", arms=["ttt"], seeds=[0], jobs=1
    )
    assert request.changes == {"hidden_size": 32, "learning_rate": 1e-3, "steps": 7}
    with pytest.raises(ValueError, match="'hidden_size': expected key=value"):
        RecallRequest.parse(["hidden_size"], None, task="motif", arms=["ttt"], seeds=[0])
    with pytest.raises(ValueError, match="--steps 7 and steps=8: give one of them"):
        RecallRequest.parse(["steps=8"], 7, task="motif", arms=["ttt"], seeds=[0])


def test_speech_is_read_once_for_both_folders(tmp_path: Path) -> None:
    folders = [str(save_codes(tmp_path / name, [1200])) for name in ("train", "test")]
    request = make_request(task="refrain", train_codes=folders[0], test_codes=folders[1], num_ids=32)
    setup = request.make_setup()
    assert setup.stages[0].num_ids == 32 and len(setup.tests["refrain"].recordings) == 1
    setup = make_request(
        task="refrain", train_codes=folders[0], test_codes=folders[1], num_ids=32, num_codebooks=3
    ).make_setup()
    assert setup.stages[0].num_codebooks == 3 and arm_config(setup, "ttt").num_codebooks == 3


def test_speakers_are_tested_apart_by_their_names(tmp_path: Path) -> None:
    folders = [str(save_codes(tmp_path / name, [1200, 1000])) for name in ("train", "test")]
    rows = load_from_disk(folders[1])
    rows = Dataset.from_list([{**row, "speaker": name} for row, name in zip(rows, ["ann", "ben"], strict=True)])
    given = {"task": "refrain", "train_codes": folders[0], "test_codes": str(tmp_path / "named"), "num_ids": 32}
    rows.save_to_disk(tmp_path / "named")
    shutil.copy(Path(folders[1], "provenance.json"), tmp_path / "named")
    tests = make_request(apart=["ben"], **given).make_setup().tests
    assert list(tests) == ["refrain", "ben: refrain", "ben: pieces"]
    assert [recording.shape for recording in tests["ben: refrain"].recordings] == [(1, 1000)]
    with pytest.raises(ValueError, match="apart='cat', but the speakers of .*named are ann, ben"):
        make_request(apart=["ben", "cat"], **given).make_setup()
    with pytest.raises(ValueError, match=r"apart=\['ben'\], but nobody speaks in task='motif'"):
        make_request(apart=["ben"])


def test_variants_and_lines_are_read_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [str(save_codes(tmp_path / name, [1200])) for name in ("train", "test")]
    codes_1T = torch.zeros(1, 1200, dtype=torch.long)
    asked: list[tuple[str, int, str | None]] = []

    def renderings(
        path: str, num_ids: int, codec: str | None, num_codebooks: int
    ) -> dict[str, list[RenderedRecording]]:
        asked.append((path, num_ids, codec))
        return {"same": [RenderedRecording(codes_1T, [Rendering(codes_1T, int)])]}

    said = SaidRecording(codes_1T, torch.zeros(1200).long(), torch.zeros(1).long())
    monkeypatch.setattr(recall_variants, "load_renderings", renderings)
    monkeypatch.setattr(recall_series, "load_said", lambda codes, recordings: [said])
    given = {"train_codes": folders[0], "test_codes": folders[1], "num_ids": 32}
    setup = make_request(
        task="refrain", also=["variants", "lines"], variants="a", train_variants="b", **given
    ).make_setup()
    assert list(setup.tests) == ["refrain", "same", "lines"] and asked == [("a", 32, None), ("b", 32, None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(variants="a", train_variants="b"), "variants, train_variants given, but only the task 'variants'"),
        (dict(num_ids=32, num_codebooks=2), "num_ids=32, num_codebooks=2, but task='motif' is not drawn from speech"),
        (dict(arms=[]), r"arms=\[\], but it must name at least one and each once"),
        (dict(first_seed_arms=["ttt"]), r"arms=\['ttt', 'static', 'ttt'\], but it must name"),
        (dict(seeds=[0, 0]), r"seeds=\[0, 0\], but it must name at least one and each once"),
        (dict(seeds=[-30]), r"seeds=\[-30\], but seeds are whole numbers from 0 to 4294967295"),
        (dict(seeds=[1 << 32]), "seeds=.4294967296., but seeds are whole numbers from 0 to 4294967295"),
        (dict(jobs=0), "jobs=0, but it must be at least 1"),
        (dict(task="refrain"), "task='refrain', train_codes=None and test_codes=None, but the tasks"),
        (dict(train_codes="a", test_codes="b"), "need both, and no other takes them"),
    ],
)
def test_requests_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_request(**changes)


def test_a_wrong_arm_is_refused_before_any_runs(tmp_path: Path) -> None:
    stand = StandIn()
    with pytest.raises(ValueError, match="arm 'lstm', but the arms are"):
        run_series(make_request(arms=["ttt", "lstm"]), tmp_path, stand)
    assert not stand.made
