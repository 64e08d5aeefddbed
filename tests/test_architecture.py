"""The structure that the README promises: imports go one way, one door to Kyutai's package, small files."""

import ast
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_moshi_ttt"
MODULES = sorted(PACKAGE.rglob("*.py"))
# The plan of the house, from the ground up: a wing uses what stands before it in this list, never what comes after.
WINGS = [
    "special_ids",
    "extras",
    "shipped_files",
    "whole_files",
    "strict_config",
    "model_presets",
    "configuration_moshi_ttt",
    "transformer",
    "codec",
    "settings",
    "memory",
    "checkpoints",
    "data",
    "streaming",
    "processing_moshi_ttt",
    "demo",
    "modeling_moshi_ttt",
    "rivals",
    "live",
    "evaluation",
    "training",
    "proof",
    "commands",
    "auto_classes",
    "__init__",
]
STRANGERS = [{"memory", "checkpoints", "data"}, {"transformer", "codec"}]  # neighbours that do not know each other
MOST_FLOORS = 6


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def name_of_test(path: Path) -> str:
    """The module a test file is named after, whether there is one or not."""
    return ".".join([*path.relative_to(ROOT / "tests").parent.parts, path.stem.removeprefix("test_")])


def running_nodes(tree: ast.AST, at_import: bool) -> Iterator[ast.AST]:
    """Every node but those below `if TYPE_CHECKING`, which never run, and, at import, those of functions."""
    for node in ast.iter_child_nodes(tree):
        never = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not never and not (at_import and isinstance(node, ast.FunctionDef)):
            yield node
            yield from running_nodes(node, at_import)


def imported_modules(path: Path, at_import: bool = False) -> set[str]:
    """Modules of this package that a file imports, by name inside the package; all, or those it cannot load without."""
    found, package = set(), path.relative_to(PACKAGE).parent.parts
    names = {name_of(module) for module in MODULES}
    for node in running_nodes(ast.parse(path.read_text()), at_import):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            prefix = ".".join(part for part in base if part)
            for alias in node.names:
                inner = f"{prefix}.{alias.name}".strip(".")
                found.add(inner if inner in names else prefix)
    return found


def floor_of(name: str, graph: dict[str, set[str]], path: tuple[str, ...] = ()) -> int:
    assert name not in path, f"imports in a circle: {[*path, name]}"
    return 1 + max((floor_of(other, graph, (*path, name)) for other in graph[name]), default=0)


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_modules_import_without_circles_over_few_floors() -> None:
    floors = []
    for at_import in (True, False):
        graph = {name_of(path): imported_modules(path, at_import) - {name_of(path)} for path in MODULES}
        floors.append({name: floor_of(name, graph) for name in graph})
    assert max(floors[0].values()) <= MOST_FLOORS, floors[0]


@pytest.mark.parametrize("wing", WINGS)
def test_wings_use_only_what_stands_before_them(wing: str) -> None:
    modules = [path for path in MODULES if wing_of(path) == wing]
    used = {name.split(".")[0] for path in modules for name in imported_modules(path)} - {wing}
    strangers = {other for group in STRANGERS if wing in group for other in group}
    assert modules, f"no wing is called {wing}"
    assert used <= set(WINGS[: WINGS.index(wing)]) - strangers


def test_every_wing_stands_in_the_plan() -> None:
    assert {wing_of(path) for path in MODULES} == set(WINGS)


def test_modules_import_each_other_relatively() -> None:
    assert [name_of(path) for path in MODULES if "from hf_moshi_ttt" in path.read_text()] == []


def test_only_one_wing_knows_kyutais_package() -> None:
    pattern = re.compile(r"^\s*(from|import) moshi\b", re.MULTILINE)
    assert [name_of(path) for path in MODULES if pattern.search(path.read_text())] == [
        "checkpoints.kyutai",
        "checkpoints.kyutai_mimi",
    ]


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "scripts").glob("*.py"))], ids=lambda path: path.stem)
def test_files_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= (120 if path.parent.name == "scripts" else 400)
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_find_what_they_import(path: Path) -> None:
    """Nothing else runs them."""
    runpy.run_path(str(path), run_name="imported")


def test_nothing_branches_on_training_in_the_model() -> None:
    outside = {"training.trainer", "evaluation.long_context"}  # they train, or set the mode and restore it
    assert [
        name_of(path)
        for path in MODULES
        if re.search(r"(self|model)\.training\b", path.read_text()) and name_of(path) not in outside
    ] == []


def test_every_module_has_a_test_of_its_name() -> None:
    tests = {name_of_test(path) for path in (ROOT / "tests").rglob("test_*.py")}
    modules = {name_of(path) for path in MODULES if path.name != "__init__.py"}
    through_what_is_built_on_them = {"strict_config", "codec.configuration_log_mel_codec"}
    assert modules - tests == through_what_is_built_on_them
