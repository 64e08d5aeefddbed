"""Docstrings name the arguments that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_architecture import MODULES, name_of

_SECTION = re.compile(r"^(?:Args|Attributes):\n((?:    .*(?:\n|$)|\n)+)", re.M)
_ITEM = re.compile(r"^    (\w[\w, ]*):(?: |$)", re.M)


def documented(docstring: str) -> set[str]:
    """The names that the sections on arguments and attributes explain."""
    items = [item for section in _SECTION.findall(docstring) for item in _ITEM.findall(section)]
    return {name.strip() for item in items for name in item.split(",")}


def parameters(function: ast.FunctionDef) -> set[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {argument.arg for argument in named if argument is not None}


def known_names(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Arguments of a function; of a class, its fields, what `__init__` takes, and what its methods set."""
    if isinstance(node, ast.FunctionDef):
        return parameters(node)
    names: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
            names.add(inner.target.id)
        elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
            names.add(inner.attr)
        elif isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            names |= parameters(inner)
    return names


def unknown_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = documented(ast.get_docstring(node) or "") - known_names(node)
            yield from (f"{node.name}: {name}" for name in sorted(names))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_documented_argument_exists(path: Path) -> None:
    assert list(unknown_names(ast.parse(path.read_text()))) == []


def test_an_argument_that_is_gone_is_found() -> None:
    text = 'def f(a, *, b):\n    """X.\n\n    Args:\n        a, c: Y\n            d: continued.\n        b: Z.\n    """'
    assert list(unknown_names(ast.parse(text))) == ["f: c"]
