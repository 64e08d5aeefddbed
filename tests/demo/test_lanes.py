"""Commands run in order or side by side, each other lane is one process, and no failure is lost."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hf_moshi_ttt.demo.lanes import CommandError, Lanes, run_command


def run(command: Sequence[str]) -> int:
    """A stand-in for the console command."""
    what, *rest = command
    print(what, os.getpid(), os.environ.get("OMP_NUM_THREADS"), flush=True)
    if what == "work":
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
    if what == "touch":
        Path(rest[0]).touch()
    if what == "exit":
        sys.exit(2)
    if what == "say":
        sys.exit("a reason")
    if what == "raise":
        raise ValueError("a reason")
    if what == "die":
        os._exit(9)
    return 3 if what == "fail" else 0


@pytest.fixture(scope="module")
def lanes() -> Lanes:
    with Lanes(run) as made:
        yield made


def test_commands_in_order_stop_at_the_first_that_fails(tmp_path: Path, lanes: Lanes) -> None:
    paths = [tmp_path / name for name in "ab"]
    with pytest.raises(CommandError, match=r"^hf-moshi-ttt fail now ended with code 3\.$"):
        lanes.run_in_order([["touch", str(paths[0])], ["fail", "now"], ["touch", str(paths[1])]])
    assert [path.exists() for path in paths] == [True, False]


def test_every_second_command_runs_in_one_other_process(
    tmp_path: Path, lanes: Lanes, capfd: pytest.CaptureFixture
) -> None:
    commands, logs = [["go"]] * 4, [tmp_path / "logs" / f"{number}.log" for number in range(4)]
    lanes.run_side_by_side(commands, lambda number: logs[number])
    own = [line.split()[1] for line in capfd.readouterr().out.splitlines()]
    assert own == [str(os.getpid())] * 2 and [log.exists() for log in logs] == [False, True, False, True]
    others = {log.read_text() for log in logs[1::2]}
    assert len(others) == 1 and others.pop().split()[2] == "1"


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("what", "code"), [("fail", 3), ("exit", 2), ("say", 1)])
def test_a_command_that_fails_is_named_and_the_others_end(
    tmp_path: Path, lanes: Lanes, what: str, code: int, number: int
) -> None:
    commands = [["touch", str(tmp_path / str(index))] for index in range(4)]
    commands[number] = [what]
    with pytest.raises(CommandError, match=rf"hf-moshi-ttt {what} ended with code {code}\.( See .*1\.log\.)?$"):
        lanes.run_side_by_side(commands, lambda index: tmp_path / f"{index}.log")
    assert all((tmp_path / str(index)).exists() for index in range(4) if index != number)


def test_an_error_is_in_the_log_and_a_process_that_dies_fails_what_it_was_given(tmp_path: Path) -> None:
    with Lanes(run) as lanes:
        with pytest.raises(CommandError, match="raise ended with code 1"):
            lanes.run_side_by_side([["go"], ["raise"]], lambda number: tmp_path / f"{number}.log")
        assert "ValueError: a reason" in (tmp_path / "1.log").read_text()
        with pytest.raises(CommandError, match="die ended with code 1"):
            lanes.run_side_by_side([["go"], ["die"]], lambda number: tmp_path / f"{number}.log")


def test_what_ends_the_process_has_a_code() -> None:
    assert [run_command(run, [what]) for what in ("go", "fail", "exit", "say")] == [0, 3, 2, 1]


def test_processor_time_is_that_of_all_lanes(tmp_path: Path, lanes: Lanes) -> None:
    before = lanes.cpu_sec
    lanes.run_side_by_side([["work"], ["work"]], lambda number: tmp_path / f"{number}.log")
    assert 0.4 <= lanes.cpu_sec - before < 30
