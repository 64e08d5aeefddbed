"""The settings of training and evaluation as text for `--help`, kept in files so that help needs no heavy import.

`python -m hf_moshi_ttt.commands.settings_help` writes the files anew; a test compares them with the code.
"""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

FILES = {"train": "train_settings.txt", "evaluate": "evaluate_settings.txt"}


def settings_help(verb: str) -> str:
    """The settings of a verb, as its file has them."""
    return Path(__file__).with_name(FILES[verb]).read_text(encoding="utf-8")


def settings_names(kinds: Sequence[Any]) -> list[str]:
    """The names of all settings of some dataclasses."""
    return [item.name for kind in kinds for item in fields(kind) if item.init]


def describe_settings(kinds: Sequence[Any]) -> str:
    """Every setting of some dataclasses with its default and meaning."""
    lines = []
    for kind in kinds:
        lines += ["", f"{kind.__doc__}".strip(), ""]
        for item in fields(kind):
            if item.init:
                text = " ".join(str(item.metadata.get("help", "")).split())
                lines.append(f"  {item.name} ({_default(item)}): {text}")
    return "\n".join(lines) + "\n"


def _default(item: Any) -> str:
    if item.default_factory is not MISSING:
        return repr(item.default_factory())
    return "required" if item.default is MISSING else repr(item.default)


def describe_verb(verb: str) -> str:
    """What the file of a verb must say."""
    from ..evaluation.long_context_settings import KINDS
    from ..training.arguments import SETTINGS

    return describe_settings({"train": SETTINGS, "evaluate": KINDS}[verb])


if __name__ == "__main__":
    for name, file in FILES.items():
        Path(__file__).with_name(file).write_text(describe_verb(name), encoding="utf-8")
