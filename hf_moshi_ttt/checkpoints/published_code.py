"""The code that travels with a published model, in the form that transformers loads: one flat folder.

`trust_remote_code` follows only imports of the form `from .name import` inside a single folder
(`transformers.dynamic_module_utils.get_relative_imports`). So a module of a wing gets its wing's name in front
(`memory/layer.py` becomes `memory_layer.py`), and its imports are written accordingly. Code that was itself loaded from
a published model is flat already and passes unchanged.
"""

import ast
import hashlib
from pathlib import Path

_STAMP = "# Published with code of sha256 "


def published_modules(root: Path, entry: str) -> dict[str, str]:
    """The module `entry` of the package folder `root` with all it imports from there: `{file name: source}`."""
    found: dict[str, str] = {}
    waiting = [root / f"{entry}.py"]
    while waiting:
        path = waiting.pop()
        name = _flat_name(path, root)
        if f"{name}.py" not in found:
            source = path.read_text(encoding="utf-8")
            imports = _relative_imports(path, source)
            found[f"{name}.py"] = _with_flat_imports(source, imports, root)
            waiting += imports.values()
    return found


def stamped(files: dict[str, str], entry: str) -> dict[str, str]:
    """The same files, with a hash of all of them in the last line of the module `entry`.

    transformers picks the class of a model by the class of its configuration, and takes classes of equal source for one
    class. So the configuration of a model must differ where anything in its code does, or the second model of a process
    would run the code of the first.
    """
    name = f"{entry}.py"
    files = {**files, name: "".join(x for x in files[name].splitlines(keepends=True) if not x.startswith(_STAMP))}
    content = "".join(f"{file_name}\n{files[file_name]}" for file_name in sorted(files))
    return {**files, name: f"{files[name]}{_STAMP}{hashlib.sha256(content.encode()).hexdigest()}\n"}


def _flat_name(path: Path, root: Path) -> str:
    return "_".join(path.relative_to(root).with_suffix("").parts)


def _relative_imports(path: Path, source: str) -> dict[int, Path]:
    """The file that each relative import of a module names, by the line it starts on.

    Raises:
        ValueError: an import that names a folder, which has no place in a flat one.
    """
    files = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*(node.module or "").split(".")).with_suffix(".py")
            if not target.is_file():
                raise ValueError(f"{path}: line {node.lineno} imports from a folder; import from a module of it.")
            files[node.lineno] = target
    return files


def _with_flat_imports(source: str, imports: dict[int, Path], root: Path) -> str:
    lines = source.splitlines(keepends=True)
    for number, target in imports.items():
        before, _, after = lines[number - 1].partition("from ")
        lines[number - 1] = f"{before}from .{_flat_name(target, root)} {after.split(maxsplit=1)[1]}"
    return "".join(lines)
