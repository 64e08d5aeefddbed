"""Train TTT-Moshi from a YAML file, changed by `key=value`; also under `accelerate launch` and torchrun.

Several YAML files may be given, later ones on top. After SIGTERM a checkpoint is saved and the exit code is 143.

    hf-moshi-ttt train --list
    hf-moshi-ttt train librilight_pretrain train_codes=codes/mine output_dir=runs/mine max_steps=1000
    accelerate launch --config_file fsdp2_4gpu.yaml -m hf_moshi_ttt.commands.console train run.yaml

CONFIG is a file, or the name of a configuration that comes with the package.
"""

import argparse
from typing import Any

from ..shipped_files import configuration_file, configuration_names
from .parser import UsageError, wrong_settings
from .settings_help import settings_help, settings_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.epilog = settings_help("train")
    parser.add_argument("settings", nargs="*", metavar="CONFIG|key=value", help="settings of the run, see below")
    parser.add_argument("--list", action="store_true", help="name the configurations that come with the package")
    parser.add_argument("--print", action="store_true", help="print the settings as YAML, and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="report parameters, memory, data and time after three steps, and stop"
    )


def run(arguments: argparse.Namespace) -> int:
    """Trains, or lists or prints configurations; returns the exit code."""
    if arguments.list:
        print(*configuration_names(), sep="\n")
        return 0
    if arguments.print:
        print(yaml_of(arguments.settings), end="")
        return 0
    from accelerate import PartialState

    from ..training.run import dry_run, run

    settings = settings_of(arguments.settings)
    if arguments.dry_run:
        code = dry_run(settings, lambda title, line: print(f"{title:<8}{line}", flush=True))
    else:
        code = run(settings)
    PartialState().destroy_process_group()  # torch asks for it: threads of a group that is left may crash the exit
    return code


def read_words(words: list[str]) -> dict[str, Any]:
    """The settings that the words of a command line give, not looked at yet.

    Raises:
        UsageError: no configuration, or one that does not exist.
    """
    from ..settings import read_settings, split_words

    files, changes = split_words(map(configuration_file, words))
    if not files:
        raise UsageError(f"no configuration was given: a YAML file, or one of {', '.join(configuration_names())}")
    with wrong_settings(files, configuration_names()):
        return read_settings(files, changes)


def yaml_of(words: list[str]) -> str:
    """The settings that the words of a command line give, as YAML."""
    import yaml

    return yaml.safe_dump(read_words(words), sort_keys=False)


def settings_of(words: list[str]) -> dict[str, Any]:
    """The settings of a run from the words of a command line.

    Raises:
        UsageError: settings that are wrong by themselves.
    """
    from ..training.arguments import SETTINGS, parse_settings

    settings = read_words(words)
    with wrong_settings(settings, settings_names(SETTINGS)):
        parse_settings(settings)
    return settings
