"""Ranks share a list of files out through lock files, and make what one of them left when it died."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from hf_moshi_ttt.data import ranks
from hf_moshi_ttt.data.ranks import Rank, made_once, shared_out

NAMES = [f"{number}.txt" for number in range(6)]


def test_torchrun_says_who_is_who(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Rank.of_this_process() == Rank(9, 16, 1)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name)
    assert Rank.of_this_process() == Rank(0, 1, 0)


def work(folder: Path, rank: Rank, hangs_on: str = "") -> list[str]:
    """The names of the files that a rank made, in order."""
    made: list[str] = []

    def make(path: Path) -> None:
        path.write_text("half")
        while path.name == hangs_on:
            time.sleep(0.01)
        path.write_text(str(rank.index))
        made.append(path.name)

    def run(jobs: list[tuple[Path]]) -> list[None]:
        return [made_once(file, make) for (file,) in jobs]

    list(shared_out([(folder / name,) for name in NAMES], rank, run))
    return made


def test_a_rank_starts_with_its_own_part_and_makes_what_nobody_does(tmp_path: Path) -> None:
    assert work(tmp_path, Rank(1, 3)) == ["1.txt", "4.txt", "0.txt", "2.txt", "3.txt", "5.txt"]
    assert work(tmp_path, Rank(0, 3)) == []


def test_a_file_that_another_has_in_hand_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FileLock(tmp_path / "0.lock")
    lock.acquire()

    def other_ends(_: float) -> None:
        (tmp_path / "0.txt").write_text("other")
        lock.release()

    monkeypatch.setattr(ranks.time, "sleep", other_ends)
    assert "0.txt" not in work(tmp_path, Rank(0, 2))
    assert (tmp_path / "0.txt").read_text() == "other"


def test_a_file_made_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_text("other")
    made_once(tmp_path / "0.txt", lambda path: path.write_text("own"))
    assert (tmp_path / "0.txt").read_text() == "other"


def test_the_others_make_what_a_killed_rank_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The killed one hangs on its second file with half of it written."""
    monkeypatch.setattr(ranks, "_POLL_SEC", 0.01)
    other = multiprocessing.get_context("fork").Process(target=work, args=(tmp_path, Rank(1, 2), "3.txt"))
    other.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "3.making" / "3.txt").is_file():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    assert work(tmp_path, Rank(0, 2)) == ["0.txt", "3.txt", "5.txt", "2.txt", "4.txt"]
    assert [(tmp_path / name).read_text() for name in NAMES] == list("010000")
    assert not list(tmp_path.glob("*.making"))


def test_a_failed_file_is_made_again(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        made_once(tmp_path / "0.txt", fail)
    assert not (tmp_path / "0.txt").exists()
    made_once(tmp_path / "0.txt", lambda path: path.write_text("whole"))
    assert (tmp_path / "0.txt").read_text() == "whole"
