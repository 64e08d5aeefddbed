"""Train TTT-Moshi from a YAML file, changed by `key=value`; also under `accelerate launch` and torchrun.

Several YAML files may be given, later ones on top. After SIGTERM a checkpoint is saved and the exit code is 143.

    hf-moshi-ttt train run.yaml train_codes=codes/mine output_dir=runs/mine max_steps=1000
    accelerate launch --config_file fsdp2_4gpu.yaml -m hf_moshi_ttt.commands.console train run.yaml
"""

import argparse

from .parser import UsageError, wrong_settings
from .settings_help import settings_help, settings_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = settings_help("train")
    parser.add_argument("settings", nargs="+", metavar="CONFIG.yaml|key=value", help="settings of the run, see below")
    parser.add_argument(
        "--dry-run", action="store_true", help="report parameters, memory, data and time after three steps, and stop"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    from ..training.run import dry_run, run

    settings = settings_of(arguments.settings)
    if arguments.dry_run:
        return dry_run(settings, lambda title, line: print(f"{title:<8}{line}", flush=True))
    return run(settings)


def settings_of(words: list[str]) -> dict[str, object]:
    """The settings of a run from the words of a command line.

    Raises:
        UsageError: settings that are wrong by themselves.
    """
    from ..settings import read_settings, split_words
    from ..training.arguments import SETTINGS, parse_settings

    files, changes = split_words(words)
    if not files:
        raise UsageError("no CONFIG.yaml was given (see configs/)")
    with wrong_settings():
        settings = read_settings(files, changes)
    with wrong_settings(settings, settings_names(SETTINGS)):
        parse_settings(settings)
    return settings
