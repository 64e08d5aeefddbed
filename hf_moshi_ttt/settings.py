"""Settings of runs and evaluations: YAML files, changed by `key=value` words, with values of their declared types.

What a value means depends on its key, so that nothing is lost before it is known: `no` and `off` are false for a
switch and words for a text, `1e3` is 1000 where a whole number is wanted, `20261127` is a text where a folder is named.
A text that begins with `~/` is a path of the home folder, for every key.
"""

import re
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml

_SWITCHES = {"yes": True, "on": True, "no": False, "off": False}


class _Loader(yaml.SafeLoader):
    """Scalars as in YAML 1.2: only true and false are booleans, numbers are decimal, dates are texts."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  as PyYAML declares it


_FLOAT = r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", ["<"]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), _first)


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The names of YAML files and the `key=value` changes among the words of a command line.

    A word with `=` is a file's name where there is such a file.
    """
    words = list(words)
    files = [word for word in words if "=" not in word or Path(word).expanduser().is_file()]
    return files, [word for word in words if word not in files]


def read_settings(paths: str | Path | list[str], changes: list[str]) -> dict[str, Any]:
    """The settings of YAML files, later ones on top, with `key=value` changes; `a.b=value` changes key b of section a.

    A file may begin with `extends: OTHER.yaml`, a file beside it whose settings it changes. Of the section `config`
    single keys are changed, other values are replaced.

    Raises:
        ValueError: missing file, no valid YAML mapping in it, or a change that is no `key=value`.
    """
    settings: dict[str, Any] = {}
    for path in paths if isinstance(paths, list) else [paths]:
        settings = _changed(settings, _read_file(Path(path).expanduser()))
    for change in changes:
        key, separator, value = change.partition("=")
        if not separator or not key:
            raise ValueError(f"{change!r}: expected key=value.")
        section = settings
        *parents, last = key.split(".")
        for parent in parents:
            section[parent] = section.get(parent) or {}
            section = section[parent]
            if not isinstance(section, dict):
                raise ValueError(f"{change!r}: {parent} is {section!r}, not a section.")
        section[last] = _parsed_word(value, change)
    return settings


def _read_file(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such configuration file.")
    if path.resolve() in extended_by:
        raise ValueError(f"{path}: extends itself.")
    settings = _parsed(path.read_text(encoding="utf-8"), path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected `key: value` lines, got {settings!r}.")
    base = settings.pop("extends", None)
    if base is None:
        return settings
    return _changed(_read_file(path.parent / Path(str(base)).expanduser(), (*extended_by, path.resolve())), settings)


def _changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    config, change = settings.get("config"), changes.get("config")
    if isinstance(config, dict) and isinstance(change, dict):
        changes = {**changes, "config": _merged(config, change)}
    return {**settings, **changes}


def _merged(section: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    pairs = {key: (section.get(key), value) for key, value in changes.items()}
    both = {k: _merged(a, b) if isinstance(a, dict) and isinstance(b, dict) else b for k, (a, b) in pairs.items()}
    return {**section, **both}


def _parsed(text: str, where: str | Path) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not valid YAML ({error}).") from error


def _parsed_word(text: str, change: str) -> Any:
    """A value on the command line: YAML, but a plain text is taken whole, also with ` #` or `: ` in it."""
    is_plain = text[:1] not in tuple("\"'[{&*!|>%@`")
    if is_plain and (" #" in text or ": " in text):
        return text
    return _parsed(text, change)


def typed_values(kind: Any, values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Values as the fields of a dataclass want them; keys that it lacks are left to it.

    Args:
        kind: a dataclass, or a configuration with sections.
        section: prefix of the keys in errors, such as `config.`.

    Raises:
        ValueError: a value that cannot be meant for its key, with its key, what is allowed and how to write it.
    """
    hints = {item.name: item.type for item in fields(kind)}
    sections = {key: getattr(spec, "config_class", spec) for key, spec in _sections(kind).items()}
    typed = {}
    for key, value in values.items():
        if key in sections and isinstance(value, Mapping):
            typed[key] = typed_values(sections[key], value, f"{section}{key}.")
        else:
            typed[key] = _typed(f"{section}{key}", _in_home(value), hints.get(key, Any))
    return typed


def _sections(kind: Any) -> dict[str, Any]:
    return getattr(kind, "sub_configs_defaults", {})


def _in_home(value: Any) -> Any:
    """Texts that begin with `~/` as paths of the home folder, also within lists and mappings."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value.startswith("~/") else value
    if isinstance(value, dict):
        return {_in_home(key): _in_home(inner) for key, inner in value.items()}
    return [_in_home(inner) for inner in value] if isinstance(value, list) else value


def _typed(key: str, value: Any, hint: Any) -> Any:
    members = _members(hint)
    if isinstance(value, list):
        inner = next((get_args(member)[0] for member in members if get_origin(member) is list), Any)
        return [_typed(key, item, inner) for item in value]
    if Any in members or value is None or isinstance(value, (Mapping, Enum)):
        return value
    takes_text = any(member is str or (isinstance(member, type) and issubclass(member, Enum)) for member in members)
    if isinstance(value, str):
        return value if takes_text and bool not in members else _from_text(key, value, members)
    if isinstance(value, bool):
        return value if bool in members else _from_bool(key, value, members)
    if isinstance(value, (int, float)):
        return _from_number(key, value, members, takes_text)
    return value


def _members(hint: Any) -> list[Any]:
    """The types that a hint allows, texts among literals as `str`."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        return [member for inner in get_args(hint) for member in _members(inner)]
    if get_origin(hint) is Literal:
        return [type(choice) for choice in get_args(hint)]
    return [hint]


def _from_text(key: str, text: str, members: Sequence[Any]) -> Any:
    if bool in members:
        if text.lower() in _SWITCHES:
            return _SWITCHES[text.lower()]
        if str not in members:
            raise ValueError(f"{key}={text!r}, but it must be true or false.")
    elif {int, float} & set(members) and not any(get_origin(member) for member in members):
        raise ValueError(f"{key}={text!r}, but it must be a {'' if float in members else 'whole '}number.")
    return text


def _from_bool(key: str, value: bool, members: Sequence[Any]) -> Any:
    choices = [choice.value for member in members if isinstance(member, type) and issubclass(member, Enum)
               for choice in member]  # fmt: skip
    if not value and "no" in choices:
        return "no"
    if {int, float} & set(members):
        raise ValueError(f"{key}={str(value).lower()}, but it must be a number.")
    if str in members:
        raise ValueError(f"{key}={str(value).lower()}, but it must be a text: write it in quotes, as in {key}: 'true'.")
    return value


def _from_number(key: str, value: float, members: Sequence[Any], takes_text: bool) -> Any:
    if float in members or type(value) in members:
        return value
    if int in members:
        if not float(value).is_integer():
            raise ValueError(f"{key}={value!r}, but it must be a whole number.")
        return int(value)
    if takes_text:
        if isinstance(value, int):
            return str(value)
        raise ValueError(f"{key}={value!r} is a number, but it must be a text: write it in quotes, as in {key}: '1.0'.")
    if bool in members:
        raise ValueError(f"{key}={value!r}, but it must be true or false.")
    return value
