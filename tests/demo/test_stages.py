"""Stages run once, fail loudly, run again after a failure, and end in a table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.codec.text_stream import train_text_tokenizer
from hf_moshi_ttt.commands.console import VERBS
from hf_moshi_ttt.demo.lanes import CommandError
from hf_moshi_ttt.demo.stages import (
    EVALUATION,
    RECALL,
    SIZES,
    Demo,
    Stage,
    closing_lines,
    long_context_line,
    recall_line,
    run_stages,
    table,
)

from .test_lanes import run


def touch_stage(folder: Path, names: list[str], parallel: bool = False) -> Stage:
    commands = [["touch", str(folder / name)] for name in names]
    return Stage("touch files", commands, lambda: f"{len(names)} files", folder / names[0], parallel)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_finished_stage_is_reused(tmp_path: Path, parallel: bool) -> None:
    said: list[str] = []
    stage = touch_stage(tmp_path, ["a", "b"], parallel)
    first = run_stages([stage], tmp_path, said.append, run)
    assert (tmp_path / "a").is_file() and (tmp_path / "b").is_file()
    (tmp_path / "a").unlink()
    assert run_stages([stage], tmp_path, said.append, run) == first
    assert not (tmp_path / "a").exists()
    assert said == ["[1/1] touch files", "    2 files", "[1/1] touch files: done before"]
    assert (tmp_path / "logs" / "touch_files_1.log").is_file() is parallel


@pytest.mark.parametrize("parallel", [False, True])
def test_a_failed_stage_raises_and_runs_again(tmp_path: Path, parallel: bool) -> None:
    stage = touch_stage(tmp_path, ["a", "b"], parallel)
    failing = replace(stage, commands=[stage.commands[0], ["fail"]])
    with pytest.raises(CommandError, match=r"^hf-moshi-ttt fail ended with code 3\."):
        run_stages([failing], tmp_path, lambda _: None, run)
    assert run_stages([stage], tmp_path, lambda _: None, run)[0]["key_number"] == "2 files"


def test_table_has_a_line_a_stage_and_a_total() -> None:
    rows = [{"stage": "a", "sec": 61.4, "cpu_sec": 100.2, "key_number": "7 files", "file": "x.json"}]
    assert table(rows).splitlines() == [
        "stage  time  CPU    key number  file",
        "a      61 s  100 s  7 files     x.json",
        "total  61 s  100 s",
    ]


@pytest.mark.parametrize("size", list(SIZES))
def test_every_command_of_the_demo_exists_and_stages_have_names_of_their_own(size: str) -> None:
    stages = Demo(Path("somewhere"), SIZES[size]).stages()
    assert len({stage.name for stage in stages}) == len(stages) == 9 and stages[0].name == RECALL
    for command in (command for stage in stages for command in stage.commands):
        assert command[0] in VERBS


def test_a_given_codec_and_tokenizer_take_the_place_of_the_fitted_ones(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"one two three {number}\n" for number in range(200)))
    train_text_tokenizer(tmp_path / "text.txt", tmp_path / "given.model", vocab_size=280)
    stages = Demo(tmp_path, SIZES["smoke"], "kyutai/mimi", str(tmp_path / "given.model")).stages()
    commands = {stage.name: [" ".join(command) for command in stage.commands] for stage in stages}
    assert commands["codec and tokenizer"] == []
    assert all("--codec kyutai/mimi" in command for command in commands["encode"])
    assert "given.model" in commands["encode"][2]
    assert all("config.text_vocab_size=280" in command for command in commands["pre-train, resumed"])


def recall(ttt: tuple[float, float, float], static: tuple[float, float, float]) -> dict[str, Any]:
    arms = {"static": static, "ttt": ttt}
    runs = [
        {"arm": arm, "tests": {"motif": {"hearings": [{}, dict(zip(("value", "low", "high"), one, strict=True))]}}}
        for arm, one in arms.items()
    ]
    return {"chance_nats": 3.466, "runs": runs}


def test_the_memory_recalls_where_its_interval_lies_below_that_of_the_control() -> None:
    said = recall_line(recall(ttt=(0.012, 0.010, 0.015), static=(3.46, 3.45, 3.47)))
    assert said == (
        "the memory recalls: static 3.460 [3.450, 3.470], ttt 0.012 [0.010, 0.015] nats when a motif is heard "
        "again (chance 3.47)"
    )
    assert recall_line(recall(ttt=(3.44, 3.43, 3.46), static=(3.46, 3.45, 3.47))).startswith("no recall yet: ")


@pytest.mark.parametrize(
    ("low", "high", "verdict", "line"),
    [
        (-0.01, 0.02, "cannot be told: +0.0050", "long context: too young to tell: +0.0050 against static"),
        (None, None, "cannot be told: n=1", "long context: too young to tell: n=1 against static"),
        (
            -0.03,
            -0.01,
            "x helps: -0.02",
            "long context: -0.02 against static, of one seed: the luck of training is not in",
        ),
        (
            0.01,
            0.03,
            "x hurts: +0.02",
            "long context: +0.02 against static, of one seed: the luck of training is not in",
        ),
    ],
)
def test_a_difference_whose_interval_holds_0_is_none(
    low: float | None, high: float | None, verdict: str, line: str
) -> None:
    assert long_context_line({"verdict": verdict, "beyond_window": {"low": low, "high": high}}).startswith(line)
    assert long_context_line({"verdict": verdict}).startswith("long context: too young to tell: ")


def test_the_demo_closes_with_recall_and_the_long_context() -> None:
    rows = [{"stage": name, "key_number": name[:2]} for name in ("corpus", EVALUATION, RECALL)]
    assert closing_lines(rows) == "re\nev"
