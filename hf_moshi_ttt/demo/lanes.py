"""Commands in a few long-lived processes: importing torch takes seconds, so a process runs more than one.

The first lane is the process itself and prints to the screen; the others write into logs.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

Command = Sequence[str]
Run = Callable[[Command], int]  # a command line without the program's name to its exit code


class CommandError(RuntimeError):
    """A command that did not end with code 0."""


class Lanes:
    """Runs commands side by side, at most `count` at once, each with one thread; a context manager.

    Args:
        run: runs a command in this process; found by its name in the others.
    """

    def __init__(self, run: Run, count: int = 2) -> None:
        self.run, self.count = run, count
        self._others: list[_Lane] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for lane in self._others:
            lane.close()

    @property
    def cpu_sec(self) -> float:
        """Processor time of all lanes and of the processes they started, so far as these have ended."""
        return _cpu_sec() + sum(lane.cpu_sec for lane in self._others)

    def run_in_order(self, commands: Sequence[Command]) -> None:
        """One after another in this process.

        Raises:
            CommandError: one failed; those after it did not run.
        """
        for command in commands:
            _require_success(command, run_command(self.run, command))

    def run_side_by_side(self, commands: Sequence[Command], log: Callable[[int], Path]) -> None:
        """Every lane takes each `count`-th command.

        Args:
            log: from the number of a command to the file of what it prints; the first lane prints to the screen.

        Raises:
            CommandError: one failed; the others ran to their end.
        """
        while len(self._others) < self.count - 1 and len(self._others) < len(commands) - 1:
            self._others.append(_Lane(self.run))
        numbered = list(enumerate(commands))
        width = len(self._others) + 1
        for offset, lane in enumerate(self._others, start=1):
            lane.start([(list(command), str(log(number))) for number, command in numbered[offset::width]])
        with _one_thread():
            codes = {number: run_command(self.run, command) for number, command in numbered[::width]}
        for offset, lane in enumerate(self._others, start=1):
            own = [number for number, _ in numbered[offset::width]]
            codes |= dict(zip(own, lane.wait(), strict=True))
        for number, command in numbered:
            _require_success(command, codes[number], "" if number % width == 0 else f" See {log(number)}.")


def run_command(run: Run, command: Command) -> int:
    """The exit code of a command, also where it ends the process."""
    try:
        return run(command)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)


def _require_success(command: Command, code: int, where: str = "") -> None:
    if code:
        raise CommandError(f"hf-moshi-ttt {' '.join(command)} ended with code {code}.{where}")


class _one_thread:
    """torch with one thread, and as many as before afterwards."""

    def __enter__(self) -> None:
        import torch

        self.before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self.before)


class _Lane:
    """Another process that runs lists of commands until its connection closes."""

    def __init__(self, run: Run) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # read when it starts
        try:
            self.process = context.Process(target=_serve, args=(run, other))
            self.process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS")
            if threads is not None:
                os.environ["OMP_NUM_THREADS"] = threads
        other.close()
        self.sent, self.cpu_sec = 0, 0.0

    def start(self, commands: list[tuple[list[str], str]]) -> None:
        self.sent = len(commands)
        self.connection.send(commands)

    def wait(self) -> list[int]:
        """The exit codes; those of a process that died are 1."""
        try:
            codes, self.cpu_sec = self.connection.recv()
            return codes
        except EOFError:
            return [1] * self.sent

    def close(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(run: Run, connection: Connection) -> None:
    while True:
        try:
            commands = connection.recv()
        except EOFError:
            return
        codes = [_run_into(run, command, Path(log)) for command, log in commands]
        connection.send((codes, _cpu_sec()))


def _cpu_sec() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def _run_into(run: Run, command: Command, log: Path) -> int:
    """Runs a command with all that it and its own processes print in a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        return run_command(run, command)
    except Exception as error:  # what it says is in the log, and the code tells the other process
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
