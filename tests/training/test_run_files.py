"""A run leaves one line a log, whatever it was stopped by, and says what it was made with."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from hf_moshi_ttt.training import run_files
from hf_moshi_ttt.training.run import run
from hf_moshi_ttt.training.run_files import code_sha256, commit, read_metrics, write_run

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "codes", [100, 61, 44, 37, 12])


def test_metrics_hold_every_log_once_after_going_on(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes, save_steps=3, max_steps=7)
    run({**settings, "stop_at_step": 5})
    for folder in (tmp_path / "run").glob("checkpoint-5"):
        (folder / "files.json").unlink()  # as after a kill: the run continues from step 3
    run(settings)
    entries = read_metrics(tmp_path / "run")
    assert [entry["step"] for entry in entries if "loss" in entry] == [1, 2, 3, 4, 5, 6, 7]
    assert entries == json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    expected = {
        "loss", "audio_loss", "codebook_0_loss", "codebooks_1_7_loss", "grad_norm", "epoch", "step",
        "frames_per_second", "audio_seconds_per_second", "seconds_left",
        "learning_rate/ttt", "learning_rate/gate_no_decay",
        "ttt/layer_1/loss_after", "ttt/layer_1/write_strength", "ttt/layer_1/gate",
    }  # fmt: skip
    assert expected <= entries[0].keys()
    with pytest.raises(ValueError, match="codes: no metrics.jsonl. It is no run of hf-moshi-ttt train, or has logged"):
        read_metrics(codes)


def test_run_json_tells_how_the_run_was_made(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes, max_steps=4, hub_token="secret")
    run({**settings, "stop_at_step": 2})
    run(settings)
    text = (tmp_path / "run" / "run.json").read_text()
    told = json.loads(text)
    first, second = told["sessions"]
    assert first["checkpoint"] is None and second["checkpoint"].endswith("checkpoint-2") and first["processes"] == 1
    assert first["settings"]["stop_at_step"] == 2 and "stop_at_step" not in second["settings"]
    assert "secret" not in text and first["versions"]["torch"] == torch.__version__
    assert first["hardware"]["cpus"] >= 1 and first["hardware"]["gpus"] == [] and first["commit"] == commit()
    # Segments of 11 of 100, 61, 44, 37 and 12 frames: 9, 6, 4, 4 and 1, and one frame left of the first and the last.
    assert told["data"]["segments"] == [24] and told["data"]["dropped_frames"] == [2]
    assert len(told["data"]["fingerprint"]) == 64 and told["config"]["ttt.mini_batch_size"] == 4
    assert sum(told["parameters"]["trained"].values()) == told["parameters"]["all"]


def test_a_commit_is_that_of_this_code_with_what_is_new_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package in a repository: first as someone else's installed package, then as its own code."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    package = tmp_path / "package"
    (package / "training").mkdir(parents=True)
    (package / "training" / "run_files.py").write_text("")
    monkeypatch.setattr(run_files, "__file__", str(package / "training" / "run_files.py"))
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    git("init", "-q")
    git("add", ".gitignore")
    git("commit", "-qm", "theirs")
    assert commit() is None
    git("add", ".")
    git("commit", "-qm", "ours")
    (package / "cached.pyc").write_text("")
    assert commit() == git("rev-parse", "HEAD").strip()
    before = code_sha256()
    (package / "new.py").write_text("")
    assert commit() == git("rev-parse", "HEAD").strip() + "+" and code_sha256() != before


def test_another_run_in_the_same_folder_begins_anew(tmp_path: Path) -> None:
    for checkpoint in (None, None, "checkpoint-2"):
        write_run(tmp_path, {"a": 1}, {"checkpoint": checkpoint, "processes": 1}, {})
    assert [s["checkpoint"] for s in json.loads((tmp_path / "run.json").read_text())["sessions"]] == [
        None,
        "checkpoint-2",
    ]


def test_a_last_line_that_is_not_whole_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that is writing, was cut off, or met a full disk."""
    entries = [{"step": step, "loss": 4 - step / 10, "note": "a\u2028b"} for step in (1, 2, 3)]
    text = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    path = tmp_path / "metrics.jsonl"
    for content in (text + "\n", text):
        path.write_text(content, encoding="utf-8")
        assert read_metrics(tmp_path) == entries and caplog.text == ""
    path.write_bytes(text.encode()[:-4])  # in the middle of a character
    assert read_metrics(tmp_path) == entries[:2]
    assert "metrics.jsonl: the last line is not whole and is left out" in caplog.text
    for damage in ("{\n", "[1]\n"):
        path.write_text(json.dumps(entries[0]) + "\n" + damage + json.dumps(entries[1]) + "\n")
        with pytest.raises(ValueError, match=r"metrics.jsonl:2: (not JSON|expected an object, got list).* Take"):
            read_metrics(tmp_path)
