"""A checkpoint is described by its configuration, a run by what it wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.training.run_files import write_run


def test_a_model(make_model: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(codec="some/codec")
    model.save_pretrained(tmp_path)
    assert main(["info", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["model"]
    assert found["parameters"] == model.num_parameters() and found["codec"] == "some/codec"
    assert found["memory"].startswith("ttt in layers [") and found["attention window sec"] == 1.28
    assert found["state of a stream MiB"] > 0


def test_a_run_that_is_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = {"checkpoint": None, "processes": 1}
    facts = {"config": {}, "data": {"codes": "books"}, "parameters": {}}
    write_run(tmp_path, {"max_steps": 8}, start, facts)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "audio_loss": 5.5}\n{"step": 2, "audio_loss": 4.25}\n')
    (tmp_path / "checkpoint-2").mkdir()
    assert main(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "  max_steps    8\n" in said and "  audio_loss   4.25\n" in said
    assert "  step         2\n" in said and "['checkpoint-2']" in said and "model" not in said


def test_the_page_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"config": {"codebook_size": 32}, "data": {"codes": "books"}, "parameters": {"all": 7}}
    write_run(tmp_path / "run", {"max_steps": 8}, {"checkpoint": None, "processes": 1}, facts)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 5.5, "audio_loss": 5.5}\n')
    assert main(["info", str(tmp_path / "run"), "--html", str(tmp_path / "new" / "page.html")]) == 0
    page = (tmp_path / "new" / "page.html").read_text()
    assert "Step 1 of 8" in page and "<code>codebook_size</code>" in page and "<td>books</td>" in page
    assert main(["info", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 2
    assert "--html is for runs, but" in capsys.readouterr().err


def test_neither(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path / "nothing")]) == 1
    assert "hf-moshi-ttt info: error: " in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, "notes.txt"])
def test_a_folder_without_a_model_is_not_taken_for_the_first_7b(
    name: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name is not None:
        (tmp_path / name).touch()
    assert main(["info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}: no checkpoint, it holds neither config.json nor weights (.safetensors)." in error
    assert f"There is: {name or 'nothing'}. Give the folder of a model" in error


def test_the_file_of_a_memory_is_not_taken_for_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "memory.safetensors").touch()
    assert main(["info", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert f"{tmp_path}: no weights. Looked for model.safetensors, consolidated.safetensors" in error
    assert "There is: memory.safetensors." in error
