"""What an error names as a remedy exists: every option in an error text is one of the command that ends with it."""

import ast
import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import PROGRAM, VERBS, parser_of
from hf_moshi_ttt.evaluation.long_context_settings import KINDS, LongContextSettings
from hf_moshi_ttt.training.arguments import DataArguments, ModelArguments, MoshiTTTTrainingArguments

from ..test_architecture import MODULES, PACKAGE, name_of

SETTINGS: dict[str, tuple[Any, ...]] = {
    "train": (ModelArguments, DataArguments, MoshiTTTTrainingArguments),
    "recall": (ModelArguments, DataArguments, MoshiTTTTrainingArguments),  # it trains; errors name what it has set
    "prove": (ModelArguments, DataArguments, MoshiTTTTrainingArguments),  # likewise
    "evaluate": KINDS,
    "tasks": (LongContextSettings,),
}


def options_of(verb: str) -> set[str]:
    """The options of a command, as `snake_case`, and the keys of its settings."""
    names = {action.dest for action in parser_of(verb)._actions}
    return names | {item.name for kind in SETTINGS.get(verb, ()) for item in fields(kind)}


Place = tuple[str, str]  # module and function or class; methods belong to their class


class Package:
    """What the functions of the package refer to, by names that they import, and what they raise."""

    def __init__(self) -> None:
        self.refers: dict[Place, set[Place]] = defaultdict(set)
        self.raises: dict[Place, set[str]] = defaultdict(set)
        for path in MODULES:
            self._read(name_of(path), path)

    def _read(self, module: str, path: Path) -> None:
        tree = ast.parse(path.read_text())
        known = {
            node.name: (module, node.name) for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                known |= {alias.asname or alias.name: (_module(node, path), alias.name) for alias in node.names}
        for node in tree.body:
            place = (module, getattr(node, "name", ""))
            for inner in ast.walk(node):
                if isinstance(inner, ast.Name) and inner.id in known:
                    self.refers[place].add(known[inner.id])
                if isinstance(inner, ast.Raise):
                    texts = [part.value for part in ast.walk(inner) if isinstance(part, ast.Constant)]
                    self.raises[place].add("".join(text for text in texts if isinstance(text, str)))

    def texts_of(self, verb: str) -> set[str]:
        """The texts that a command may end with."""
        seen: set[Place] = {(f"commands.{verb.replace('-', '_')}", "run")}
        waiting = list(seen)
        while waiting:
            fresh = self.refers[waiting.pop()] - seen
            seen |= fresh
            waiting += fresh
        return {text for place in seen for text in self.raises[place]}


def _module(node: ast.ImportFrom, path: Path) -> str:
    if not node.level:
        return str(node.module).removeprefix("hf_moshi_ttt").lstrip(".")
    package = path.relative_to(PACKAGE).parent.parts
    return ".".join([*package[: len(package) - node.level + 1], *str(node.module or "").split(".")])


@pytest.fixture(scope="module")
def package() -> Package:
    return Package()


OPTIONS = {verb: options_of(verb) for verb in VERBS}
NAMED_VERB = re.compile(rf"\b{PROGRAM} ([\w-]*\w)")
KNOWN = set().union(*OPTIONS.values())
# Texts that name options, but that no command can end with, or that speak of Python.
NOT_OF_COMMANDS = {
    "The embeddings of TTT-Moshi cannot be resized": "transformers' method, which no command calls",
    "trainable_only=True, but": "save_pretrained in Python; `push` has the option",
    "The model was quantized when it was loaded": "save_pretrained in Python; `push` has the option",
    "stream from init_state(batch_size)": "a call in Python",
    'user_stream="silence" needs silence_codes': "a key of the model's configuration",
    "its configuration names no text_tokenizer": "a key of the model's configuration",
    "A corpus with alignments needs text_tokenizer": "audiobooks, which evaluations encode, have no alignments",
    "main_speaker": "nor have they speakers with labels",
    "num_proc is ": "a value that is given",
    "text_stream=, but a recording brings its own text": "the evaluation while training has no such setting",
    "the channels look swapped": "conversations of a run are the model's own; `turn-taking` has the option",
    "could not be written:": "saving a checkpoint, which `info` does not and `train` has the option for",
    "is drawn from encoded speech: give": "`prove` says which codes are absent; `recall` has the options",
    "needs held-out recordings in other forms: give": "the same",
    "The evaluation needs memory for batch_size": "LongContextCallback takes other settings in Python",
}


def named_options(text: str) -> set[str]:
    """The options that an error names, but not the values that it complains about (`key=` before a value)."""
    words = re.findall(r"--[a-z][a-z-]+|\b[a-z]+(?:_[a-z0-9]+)+\b(?!=[ ,.])", text)
    return {word.lstrip("-").replace("-", "_") for word in words} & KNOWN


@pytest.mark.parametrize("verb", OPTIONS)
def test_a_command_has_every_option_that_its_errors_name(package: Package, verb: str) -> None:
    """An option may have a prefix (`librilight_data_dir`); where another verb is named, it is that verb's."""
    missing = {}
    for text in package.texts_of(verb):
        own = set().union(OPTIONS[verb], *(OPTIONS[name] for name in NAMED_VERB.findall(text)))
        lacking = {name for name in named_options(text) if not any(f"_{option}".endswith(f"_{name}") for option in own)}
        if lacking and not any(part in text for part in NOT_OF_COMMANDS):
            missing[text] = lacking
    assert missing == {}


def test_every_command_that_an_error_names_exists(package: Package) -> None:
    texts = [text for texts in package.raises.values() for text in texts]
    named = {name for text in texts for name in NAMED_VERB.findall(text)}
    assert {"prepare", "train-tokenizer"} <= named <= OPTIONS.keys()


def test_texts_name_the_command_not_a_script_of_the_checkout() -> None:
    """An installed package has no scripts."""
    naming = {name_of(path) for path in MODULES if re.search(r"\bscripts/\w+\.py", path.read_text())}
    assert naming == set()


def test_exceptions_are_texts_of_the_package(package: Package) -> None:
    everything = "\n".join(text for texts in package.raises.values() for text in texts)
    assert [part for part in NOT_OF_COMMANDS if part not in everything] == []


def test_errors_are_found_behind_the_functions_that_a_command_calls(package: Package) -> None:
    """Else the test above could not fail."""
    for verb in ("annotate", "prepare", "evaluate", "index"):
        assert any("give data_dir" in text for text in package.texts_of(verb)), verb
    assert any("resume_from_checkpoint=true" in text for text in package.texts_of("train"))
    assert named_options("leads to , outside of ; give data_dir, or --swap") == {"data_dir", "swap"}
    assert named_options("save_steps=, but; set reset_step=true") == {"reset_step"}
