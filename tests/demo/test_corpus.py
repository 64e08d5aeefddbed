"""The script that builds the whole corpus: what it writes, that it continues, and the folder that it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_moshi_ttt.demo.debian_packages import NOVELS_PACKAGE, PROMPTS_PACKAGE

from ..fixtures.corpora import package_cache, unpacked

REPOSITORY = Path(__file__).parents[2]


def make_corpus(out_dir: Path, seed: int, conversations: int = 2) -> subprocess.CompletedProcess[str]:
    sizes = ["--train-hours", "0.01", "--eval-minutes", "0.6", "--conversations", str(conversations), "--num-proc", "1"]
    command = [sys.executable, "scripts/make_corpus.py", str(out_dir), *sizes, "--seed", str(seed)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of half a minute for training, as much held out and two conversations."""
    for name in (NOVELS_PACKAGE, PROMPTS_PACKAGE):
        unpacked(tmp_path_factory, name)
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "packages").symlink_to(package_cache(tmp_path_factory))
    done = make_corpus(folder, seed=0)
    assert done.returncode == 0, done.stderr
    return folder


def test_everything_is_written(out_dir: Path) -> None:
    for split in ("train", "heldout"):
        audio = {path.with_suffix("") for path in (out_dir / "librilight" / split).rglob("*.flac")}
        assert audio == {path.with_suffix("") for path in (out_dir / "librilight" / split).rglob("*.json")}
        assert {path.parts[-3] == "human_narrator" for path in audio} == {True, False}
    assert sorted(path.name for path in (out_dir / "dailytalk").iterdir()) == [
        "dailytalk.jsonl",
        "dailytalk_heldout.jsonl",
        "data_stereo",
    ]
    assert not list(out_dir.rglob("*.part"))


def test_summary_counts_what_is_there(out_dir: Path) -> None:
    summary = json.loads((out_dir / "corpus.json").read_text())
    assert summary["request"] == {"train_hours": 0.01, "eval_minutes": 0.6, "conversations": 2, "seed": 0}
    for split, counts in summary["splits"].items():
        assert counts["files"] == len(list((out_dir / "librilight" / split).rglob("*.flac")))
        assert 0.005 < counts["hours"] < 0.06
    assert summary["debian_packages"][0].startswith(NOVELS_PACKAGE + " ")
    assert set(summary["python_packages"]) > {"hibari-tts", "pocketsphinx"}


def test_tokenizer_text_has_the_training_paragraphs_and_no_heldout_one(out_dir: Path) -> None:
    lines = set((out_dir / "text" / "novels.txt").read_text(encoding="utf-8").splitlines())
    assert sum(map(len, lines)) > 2_500_000
    paragraphs = {
        split: [
            paragraph
            for path in (out_dir / "librilight" / split).rglob("*.json")
            for paragraph in json.loads(path.read_text()).get("paragraphs", [])
        ]
        for split in ("train", "heldout")
    }
    assert paragraphs["train"] and set(paragraphs["train"]) <= lines
    assert paragraphs["heldout"] and not set(paragraphs["heldout"]) & lines


def test_running_again_changes_no_audio_and_another_seed_is_refused(out_dir: Path) -> None:
    changed_ns = {path: path.stat().st_mtime_ns for path in out_dir.rglob("*.flac")}
    assert make_corpus(out_dir, seed=0).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in out_dir.rglob("*.flac")} == changed_ns
    refused = make_corpus(out_dir, seed=1)
    assert refused.returncode == 1
    assert "'seed': 0}, asked for is" in refused.stderr and "give another folder" in refused.stderr


def test_impossible_request_does_not_claim_the_folder(out_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "packages").symlink_to((out_dir / "packages").resolve())
    refused = make_corpus(tmp_path, seed=0, conversations=500)
    assert refused.returncode == 1 and "ask for at most" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]
