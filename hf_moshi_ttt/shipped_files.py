"""The configurations and the metric that travel with the package, by name.

They lie inside an installed package, and beside it in a checkout (`setup.cfg` maps the folders).
"""

from pathlib import Path


def shipped_folder(name: str) -> Path:
    """The folder `configs` or `metrics`."""
    package = Path(__file__).parent
    return next(folder for folder in (package / name, package.parent / name) if folder.is_dir())


def configuration_names(section: str = "") -> list[str]:
    """The names of all configurations of a section: of training by default, or of `evaluation` or `accelerate`."""
    return sorted(path.stem for path in (shipped_folder("configs") / section).glob("*.yaml"))


def configuration_file(word: str, section: str = "") -> str:
    """The file of a configuration that is named; any other word, such as the path of a file, as it is."""
    named = word in configuration_names(section) and not Path(word).is_file()
    return str(shipped_folder("configs") / section / f"{word}.yaml") if named else word
