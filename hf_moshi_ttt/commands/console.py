"""The console command: `hf-moshi-ttt VERB ...`, or `python -m hf_moshi_ttt.commands.console VERB ...`.

Exit codes: 0; 1 for a run that failed, without a traceback unless `--debug`; 2 for a wrong command, option or setting;
130 after Ctrl-C; 143 for a training run that was told to stop and saved a checkpoint.
"""

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from ..extras import how_to_get
from .parser import FAILED, INTERRUPTED, WRONG_USAGE, Parser, UsageError, nearest

PROGRAM = "hf-moshi-ttt"
# The verbs in the order in which a newcomer needs them, each with the script that is the same.
VERBS: dict[str, str | None] = {
    "doctor": None,
    "demo": "demo.py",
    "index": "create_librilight_index.py",
    "annotate": "annotate.py",
    "prepare": "prepare_data.py",
    "train": "train.py",
    "plot": "plot.py",
    "plot-memory": "plot_memory.py",
    "info": None,
    "evaluate": "evaluate_long_context.py",
    "tasks": "evaluate_tasks.py",
    "recall": "recall.py",
    "prove": "prove_memory.py",
    "conversations": "evaluate_conversations.py",
    "turn-taking": "evaluate_turn_taking.py",
    "generate": "generate.py",
    "serve": "serve.py",
    "convert": "convert_checkpoint.py",
    "push": "push_to_hub.py",
    "fit-codec": "fit_codec.py",
    "train-tokenizer": "train_text_tokenizer.py",
    "make-corpus": "make_corpus.py",
    "make-programmes": None,
    "make-variants": None,
}


def module_of(verb: str) -> ModuleType:
    """The module of a verb."""
    return import_module(f".{verb.replace('-', '_')}", __package__)


def parser_of(verb: str) -> Parser:
    """The command line of a verb."""
    module = module_of(verb)
    parser = Parser(prog=f"{PROGRAM} {verb}", description=module.__doc__)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def parse(verb: str, words: Sequence[str]) -> argparse.Namespace:
    """The arguments of a verb; ends the process with code 2 where they are wrong."""
    return parser_of(verb).parse_intermixed_args(words)


def overview() -> str:
    """The help of the command itself: every verb with the first sentence of its help."""
    lines = [f"usage: {PROGRAM} VERB ... | {PROGRAM} VERB --help | {PROGRAM} --version", ""]
    for verb in VERBS:
        source = Path(__file__).with_name(f"{verb.replace('-', '_')}.py").read_text(encoding="utf-8")
        summary = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  {verb:<16}{summary}")
    lines += ["", f"{PROGRAM} doctor says what this machine can do and what to run next."]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Runs a verb; returns the exit code.

    Args:
        words: the command line without the program's name; the process's own by default.
    """
    words = sys.argv[1:] if words is None else words
    try:
        return _main(words)
    except KeyboardInterrupt:  # at any time, most likely while torch is imported
        if "--debug" in words:
            raise
        print(f"{' '.join([PROGRAM, *words[:1]])}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _main(words: Sequence[str]) -> int:
    verb = words[0] if words else ""
    if verb in ("", "-h", "--help"):
        print(overview())
        return 0 if verb else WRONG_USAGE
    if verb == "--version":
        print(f"{PROGRAM} {version('hf_moshi_ttt')}")
        return 0
    if verb not in VERBS:
        hint = nearest([verb], VERBS) or f" Verbs: {', '.join(VERBS)}."
        print(f"{PROGRAM}: error: there is no verb {verb!r}.{hint}", file=sys.stderr)
        return WRONG_USAGE
    return run(verb, parse(verb, words[1:]))


def run(verb: str, arguments: argparse.Namespace) -> int:
    """Runs a verb with parsed arguments; returns the exit code. Errors are one message on stderr unless `debug`.

    With `--json` the facts that the verb returns are all that stdout holds; what it prints goes to stderr.
    """
    try:
        if not getattr(arguments, "json", False):
            found = module_of(verb).run(arguments)
            return found if isinstance(found, int) else 0
        with redirect_stdout(sys.stderr):
            found = module_of(verb).run(arguments)
        if found is not None:
            print(json.dumps(found, indent=1, default=str))
        return 0
    except Exception as error:
        if arguments.debug:
            raise
        print(f"{PROGRAM} {verb}: error: {message_of(error)}", file=sys.stderr)
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED


def message_of(error: Exception) -> str:
    """One message for an error; for a missing optional package the command that gets it."""
    if isinstance(error, ImportError):
        absent = error if isinstance(error, ModuleNotFoundError) else error.__cause__
        if remedy := how_to_get(getattr(absent, "name", None)):
            return remedy
    known = isinstance(error, (ValueError, OSError))
    return str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)"


def main_of_script(path: str) -> int:
    """Runs the verb that a script is the same as; returns the exit code.

    Args:
        path: the script's `__file__`.
    """
    verb = next(verb for verb, script in VERBS.items() if script == Path(path).name)
    return main([verb, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
