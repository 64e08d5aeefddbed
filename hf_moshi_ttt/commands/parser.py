"""What all verbs share on the command line: one-line errors with the nearest right name, and exit codes."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

WRONG_USAGE, FAILED, INTERRUPTED = 2, 1, 130


class UsageError(ValueError):
    """What was asked for is wrong; nothing ran."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with the nearest option for an unknown one.

    Its help lists the options that are required before all others, and examples indented.
    """

    def __init__(self, description: str | None = None, **options: Any) -> None:
        examples = re.sub(r"^(?=hf-moshi-ttt )", "    ", description or "", flags=re.M)
        super().__init__(
            description=examples, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )
        self._required = self.add_argument_group("required options")
        self._action_groups.insert(1, self._action_groups.pop())

    def add_argument(self, *names: Any, **options: Any) -> Any:
        """argparse's method."""
        return (
            self._required.add_argument(*names, **options)
            if options.get("required")
            else super().add_argument(*names, **options)
        )

    def error(self, message: str) -> NoReturn:
        """Ends the process with code 2."""
        unknown = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        options = [option for action in self._actions for option in action.option_strings]
        self.exit(WRONG_USAGE, f"{self.prog}: error: {message}.{nearest(unknown, options)} (see {self.prog} --help)\n")


def nearest(given: Iterable[str], known: Iterable[str]) -> str:
    """A question that names the nearest right names of those that are not known; empty where none is near."""
    known = list(known)
    wrong = [word for word in given if word not in known]
    names = [name for word in wrong for name in difflib.get_close_matches(word, known, n=1)]
    return f" Did you mean {', '.join(names)}?" if names else ""


@contextmanager
def wrong_settings(given: Iterable[str] = (), known: Iterable[str] = ()) -> Iterator[None]:
    """Makes ValueErrors errors of usage.

    Args:
        given: names of settings that were given.
        known: names of settings that exist.

    Raises:
        UsageError: in place of a ValueError, with the nearest right names.
    """
    try:
        yield
    except ValueError as error:
        raise UsageError(f"{error}{nearest(given, known)}") from error


def whole(least: int = 1, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that is a whole number; one that is not, or out of bounds, is an error of usage."""
    allowed = f"a whole number, {least} or more" if most is None else f"a whole number from {least} to {most}"

    def parsed(text: str) -> int:
        number = int(text) if re.fullmatch(r"[+-]?\d+", text.strip()) else None
        if number is None or number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"{text!r}, but it must be {allowed}")
        return number

    return parsed


SEED = whole(0, (1 << 63) - 1)


def number(least: float = 0.0, most: float = math.inf, *, is_open: bool = False) -> Callable[[str], float]:
    """The type of an option that is a finite number; one that is not, or out of bounds, is an error of usage.

    Args:
        is_open: whether it must be above `least`.
    """
    begin = f" above {least:g}" if is_open else f", {least:g} or more"
    allowed = f"a number{begin}" if most == math.inf else f"a number from {least:g} to {most:g}"

    def parsed(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if is_open else least <= value) or not value <= most or value == math.inf:
            raise argparse.ArgumentTypeError(f"{text!r}, but it must be {allowed}")
        return value

    return parsed


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`, for a verb whose `run` returns what it found."""
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, everything else on stderr")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`, which `device_of` reads."""
    parser.add_argument("--device", help="where the model runs (a GPU where there is one, else cpu)")


def device_of(given: str | None) -> str:
    """The device that was asked for, or a GPU where there is one."""
    import torch

    return given or ("cuda" if torch.cuda.is_available() else "cpu")
