"""Stages run once, fail loudly, run again after a failure, and end in a table."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.codec.text_stream import train_text_tokenizer
from hf_moshi_ttt.commands.console import VERBS
from hf_moshi_ttt.demo.stages import SIZES, Demo, Stage, run_stages, table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    book = tmp_path / "books" / "speaker" / "book"
    book.mkdir(parents=True)
    soundfile.write(book / "1.wav", np.zeros(2400), 24_000)
    return tmp_path / "books"


def index_stage(books: Path, names: list[str], parallel: bool = False) -> Stage:
    outputs = [str(books / name) for name in names]
    commands = [["index", str(books), "--output", output] for output in outputs]
    return Stage("index books", commands, lambda: f"{len(outputs)} indexes", books / names[0], parallel)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_finished_stage_is_reused(tmp_path: Path, books: Path, parallel: bool) -> None:
    said: list[str] = []
    stage = index_stage(books, ["a.jsonl", "b.jsonl"], parallel)
    first = run_stages([stage], tmp_path, said.append)
    assert (books / "a.jsonl").is_file() and (books / "b.jsonl").is_file()
    (books / "a.jsonl").unlink()
    assert run_stages([stage], tmp_path, said.append) == first
    assert not (books / "a.jsonl").exists()
    assert said == ["[1/1] index books", "[1/1] index books: done before"]
    assert (tmp_path / "logs" / "index_books_1.log").is_file() is parallel


@pytest.mark.parametrize("parallel", [False, True])
def test_a_failed_stage_raises_and_runs_again(tmp_path: Path, books: Path, parallel: bool) -> None:
    stage = index_stage(books, ["a.jsonl", "b.jsonl"], parallel)
    (books / "b.jsonl").mkdir()  # cannot be written
    with pytest.raises(subprocess.CalledProcessError, match=r"b\.jsonl"):
        run_stages([stage], tmp_path, lambda _: None)
    (books / "b.jsonl").rmdir()
    assert run_stages([stage], tmp_path, lambda _: None)[0]["key_number"] == "2 indexes"


def test_table_has_a_line_a_stage_and_a_total() -> None:
    rows = [{"stage": "a", "sec": 61.4, "key_number": "7 files", "file": "x.json"}]
    assert table(rows).splitlines() == [
        "stage  time  key number  file",
        "a      61 s  7 files     x.json",
        "total  61 s",
    ]


@pytest.mark.parametrize("size", list(SIZES))
def test_every_command_of_the_demo_exists_and_stages_have_names_of_their_own(size: str) -> None:
    stages = Demo(Path("somewhere"), SIZES[size]).stages()
    assert len({stage.name for stage in stages}) == len(stages) == 9
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
