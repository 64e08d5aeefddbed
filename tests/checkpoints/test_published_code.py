"""Modules of wings become modules of one folder that import each other by flat names."""

from pathlib import Path

import pytest

from hf_moshi_ttt.checkpoints.published_code import published_modules, stamped


def write(root: Path, **files: str) -> None:
    for name, source in files.items():
        path = root / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


def test_wings_are_flattened(tmp_path: Path) -> None:
    write(
        tmp_path,
        model="import math\nfrom .wing.part import A, B\nfrom .flat import C\n",
        flat="C = 1\n",
        wing__part="import math\nfrom ..flat import C\nfrom .other import D\nA = B = C\n",
        wing__other="if True:\n    from ..flat import (\n        C,\n    )\nD = C\n",
        unused="",
    )
    assert published_modules(tmp_path, "model") == {
        "model.py": "import math\nfrom .wing_part import A, B\nfrom .flat import C\n",
        "flat.py": "C = 1\n",
        "wing_part.py": "import math\nfrom .flat import C\nfrom .wing_other import D\nA = B = C\n",
        "wing_other.py": "if True:\n    from .flat import (\n        C,\n    )\nD = C\n",
    }


def test_flat_code_passes_unchanged(tmp_path: Path) -> None:
    write(tmp_path, model="from .wing_part import A\n", wing_part="A = 1\n")
    assert published_modules(tmp_path, "model") == {
        "model.py": "from .wing_part import A\n",
        "wing_part.py": "A = 1\n",
    }


def test_an_import_from_a_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, model="\nfrom .wing import part\n", wing__part="")
    with pytest.raises(ValueError, match=r"model\.py: line 2 imports from a folder; import from a module of it\."):
        published_modules(tmp_path, "model")


def test_a_change_anywhere_changes_the_stamp_and_nothing_else_does() -> None:
    files = {"configuration.py": "A = 1\n", "other.py": "B = 1\n"}
    once = stamped(files, "configuration")
    assert once["other.py"] == "B = 1\n" and once["configuration.py"].startswith(
        "A = 1\n# Published with code of sha256 "
    )
    assert stamped(once, "configuration") == once
    changed = stamped({**once, "other.py": "B = 2\n"}, "configuration")
    assert changed["configuration.py"].splitlines()[0] == "A = 1" and len(changed["configuration.py"].splitlines()) == 2
    assert changed["configuration.py"] != once["configuration.py"]
