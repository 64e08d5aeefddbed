"""Checkpoints are whole or skipped, and a limit never takes the last good one."""

import errno
import json
import os
import traceback
from pathlib import Path

import pytest
from torch.distributed.checkpoint.api import CheckpointException

from hf_moshi_ttt.training.checkpoint_folders import CheckpointError, CheckpointFolders, find_checkpoint


def save(folders: CheckpointFolders, step: int, content: str = "weights") -> Path:
    folders.clear()
    folder = folders.saving / f"checkpoint-{step}"
    (folder / "shards").mkdir(parents=True)
    (folder / "model").write_text(content)
    (folder / "shards" / "0").write_text("more")
    return folders.publish(folder.name)


@pytest.fixture
def folders(tmp_path: Path) -> CheckpointFolders:
    return CheckpointFolders(tmp_path)


def test_the_newest_whole_one_is_found(folders: CheckpointFolders, caplog: pytest.LogCaptureFixture) -> None:
    assert folders.newest() is None
    for step in (9, 10, 100):
        save(folders, step)
    assert folders.newest().name == "checkpoint-100"
    (folders.output_dir / "checkpoint-100" / "shards" / "0").write_text("les")
    assert folders.newest().name == "checkpoint-10"
    assert find_checkpoint(folders.output_dir).name == "checkpoint-10"
    with pytest.raises(ValueError, match=r"checkpoint-100: cannot be continued, shards/0 has 3 bytes instead of 4"):
        find_checkpoint(folders.output_dir / "checkpoint-100")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model").unlink(), "model is missing"),
        (
            lambda folder: (folder / "files.json").unlink(),
            "it has no files.json: it was not finished, or not written",
        ),
        (lambda folder: (folder / "files.json").write_text("{"), "its files.json is damaged"),
    ],
)
def test_what_is_not_whole_is_refused(folders: CheckpointFolders, damage: object, message: str) -> None:
    damage(save(folders, 5))
    assert folders.newest() is None
    with pytest.raises(ValueError, match=message):
        find_checkpoint(folders.output_dir / "checkpoint-5")
    with pytest.raises(ValueError, match="elsewhere: no such checkpoint"):
        find_checkpoint(folders.output_dir / "elsewhere")


def test_nothing_is_seen_before_it_is_whole(folders: CheckpointFolders) -> None:
    folders.clear()
    (folders.saving / "checkpoint-7").mkdir()
    (folders.saving / "checkpoint-7" / "model").write_text("half")
    assert folders.present() == [] and folders.newest() is None
    save(folders, 8)
    assert [path.name for path in folders.present()] == ["checkpoint-8"] and not list(folders.saving.iterdir())


def test_a_step_that_is_saved_again_replaces_the_old_one(folders: CheckpointFolders) -> None:
    save(folders, 3, "old")
    assert (save(folders, 3, "new") / "model").read_text() == "new"
    assert json.loads((folders.output_dir / "checkpoint-3" / "files.json").read_text()) == {"model": 3, "shards/0": 4}


def test_the_limit_counts_whole_ones_and_spares_the_best_and_the_newest(folders: CheckpointFolders) -> None:
    for step in (1, 2, 3, 4):
        save(folders, step)
    (folders.output_dir / "checkpoint-4" / "model").unlink()
    folders.rotate(1)
    assert [path.name for path in folders.present()] == ["checkpoint-3", "checkpoint-4"]
    save(folders, 5)
    folders.rotate(1, best=str(folders.output_dir / "checkpoint-3"))
    assert folders.newest().name == "checkpoint-5" and (folders.output_dir / "checkpoint-3").is_dir()
    for limit in (None, 0):
        folders.rotate(limit)
    assert len(folders.present()) == 3
    save(folders, 6)
    folders.rotate(2, best=str(folders.output_dir / "checkpoint-3"))
    assert [path.name for path in folders.present()] == ["checkpoint-3", "checkpoint-4", "checkpoint-6"]
    save(folders, 5)
    folders.rotate(2)
    assert [path.name for path in folders.present()] == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


def test_a_failed_save_says_what_is_left(folders: CheckpointFolders) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    alone = "checkpoint-2 could not be written: .*No space left.*There is no earlier checkpoint"
    with pytest.raises(CheckpointError, match=alone), folders.explained_failures("checkpoint-2"):
        raise full
    save(folders, 1)
    folders.clear()
    kept = r"MiB are free in .*checkpoint-1 is untouched. Make room and start again with resume_from_checkpoint=true"
    with pytest.raises(CheckpointError, match=kept), folders.explained_failures("checkpoint-2"):
        raise full
    assert not folders.saving.exists() and folders.newest().name == "checkpoint-1"


def test_a_failed_save_of_shards_says_what_is_left(folders: CheckpointFolders) -> None:
    """What torch raises for sharded checkpoints derives from BaseException alone."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    save(folders, 1)
    folders.clear()
    kept = "checkpoint-2 could not be written: .*No space left.*checkpoint-1 is untouched"
    with pytest.raises(CheckpointError, match=f"(?s){kept}"), folders.explained_failures("checkpoint-2"):
        raise CheckpointException("write", {0: (full, traceback.extract_stack())})
    assert not folders.saving.exists()


def test_files_of_a_model_replace_those_of_the_run(folders: CheckpointFolders) -> None:
    (folders.output_dir / "model").write_text("old")
    folders.clear()
    (folders.saving / "model").mkdir()
    (folders.saving / "model" / "model").write_text("new")
    folders.publish_files("model")
    assert (folders.output_dir / "model").read_text() == "new" and not folders.saving.exists()
