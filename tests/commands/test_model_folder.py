"""Verbs load the model of a run that a new run would take over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.model_folder import model_folder

from ..conftest import chirps_S


def with_checkpoint(run: Path, step: int, **files: str) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "files.json").write_text(json.dumps({name: len(content) for name, content in files.items()}))
    return folder


def test_other_names_stay_as_they_are(tmp_path: Path) -> None:
    assert model_folder("kyutai/moshiko") == "kyutai/moshiko"
    assert model_folder(str(tmp_path)) == str(tmp_path)
    (tmp_path / "checkpoint-3").mkdir()
    assert model_folder(str(tmp_path)) == str(tmp_path), "another trainer's checkpoints are not judged"


def test_a_run_without_a_final_model_is_its_newest_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    newest = with_checkpoint(tmp_path, 9, **{"config.json": "{}"})
    assert model_folder(str(tmp_path)) == str(newest)
    assert "holds no final model yet, the weights of checkpoint-9 are taken" in caplog.text


def test_the_later_checkpoint_is_loaded_and_named(
    make_model: Callable[..., Any], codec_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that was stopped at step 8 and went on to step 9."""
    run, own = tmp_path / "run", tmp_path / "own.wav"
    soundfile.write(own, chirps_S(0.8, 0), 24_000)
    make_model(codec=codec_path).save_pretrained(run)
    newest = with_checkpoint(run, 9)
    make_model(codec=codec_path).save_pretrained(newest)
    (run / "trainer_state.json").write_text(json.dumps({"global_step": 8, "max_steps": 8}))
    words = ["generate", str(run), str(own), "--new-sec", "0.16", "--output", str(tmp_path / "out.wav")]
    assert main(words) == 0
    assert json.loads((tmp_path / "out.json").read_text())["model"] == str(newest)
    assert "run: the final model is older than checkpoint-9, whose weights are taken" in caplog.text
