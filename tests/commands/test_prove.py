"""The verb runs a plan from codes to a page and three figures, goes on after a stop, and says what it would cost."""

import json
from pathlib import Path

import pytest
from transformers.utils import logging

from hf_moshi_ttt.commands.console import main

from ..conftest import save_codes

PLAN = """
title: A proof of nothing
rungs:
  - name: refrain
    question: Does it run?
    task: refrain
    also: [distance, speech_controls]
    num_ids: 32
    size: {steps: 2, hidden_size: 16, num_attention_heads: 2, batch_size: 1, test_rows: 2, window_frames: 2}
    arms: [static, full, ttt]
    criteria: [{test: refrain}, {test: spliced, rule: harmless}]
    run_sec: 1
"""


def test_a_proof_from_codes_to_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbosity = logging.get_verbosity()
    (tmp_path / "plan.yaml").write_text(PLAN)
    for part in ("train", "heldout"):
        save_codes(tmp_path / "codes" / f"librilight_{part}", [700, 800])
    words = ["prove", "--config", str(tmp_path / "plan.yaml"), "--codes", str(tmp_path / "codes"), "--jobs", "1"]
    words += ["--output", str(tmp_path / "out"), "--seeds", "7"]
    assert main(words) == 0
    results = json.loads((tmp_path / "out" / "proof.json").read_text())
    rung = results["rungs"][0]
    assert results["command"].startswith("hf-moshi-ttt prove --config ") and "--seeds 7" in results["command"]
    assert rung["fairness"]["same_frames_in_order"] and rung["arms"]["ttt"]["train_frames"] == 2 * 256
    assert rung["fairness"]["parameters_less_static"]["ttt"] <= 0
    assert rung["gaps_windows"]["after 16 frames"] == 8 and len(rung["tests"]["refrain"]["positions"]["ttt"]) == 256
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"proof.md", "loss_by_position.png", "gap_by_distance.png", "recall_by_hearing.png", "refrain"} <= files

    runs = sorted((tmp_path / "out" / "refrain" / "runs").iterdir())
    before = [path.stat().st_mtime_ns for path in runs]
    runs[0].unlink()
    assert main(words) == 0
    again = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out" / "refrain" / "runs").iterdir())]
    assert [old == new for old, new in zip(before, again, strict=True)] == [False, True, True]
    logging.set_verbosity(verbosity)
    assert "refrain: no headroom" in capsys.readouterr().out or rung["verdicts"][0]["passes"] is not None


def test_a_dry_run_says_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "--size", "cpu", "--dry-run", "--rungs", "motif", "--output", str(tmp_path / "out")]) == 0
    assert "motif: 16 runs of about" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_what_cannot_be_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "--rungs", "moon", "--dry-run"]) == 2
    assert "rungs=['moon'], but the plan has motif, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "argument --jobs: '0', but it must be a whole number, 1 or more"),
        (["--seeds", "-30"], "--seeds"),
        (["--seeds", "1", "1"], r"seeds=[1, 1], but they are one or more different numbers"),
        (["--data", "a", "--codes", "b"], "not allowed with argument"),
    ],
)
def test_wrong_options_end_before_a_plan_is_told(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["prove", "--size", "smoke", "--dry-run", *words])
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    shown = capsys.readouterr()
    assert code == 2 and message in shown.err and not shown.out


def test_codes_that_are_not_there_are_no_proof(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prove", "--size", "smoke", "--output", str(tmp_path / "out"), "--codes", str(tmp_path / "none")]
    assert main(words) == 2 and "none: no such folder; leave it out" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_folder_of_another_plan_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "proof.json").write_text('{"title": "another"}')
    assert main(["prove", "--size", "smoke", "--output", str(tmp_path)]) == 2
    assert "holds the results of 'another', but this is 'Proof at smoke size" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["proof.json"]
