"""Files that cannot be used: counted and listed with their reasons, and a stop when they are too many."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from .text_files import composed

MAX_BAD_FRACTION = 0.01
_LISTED = 20


@dataclass
class BadFiles:
    """Files that were left out, with the reason of each."""

    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, path: str | Path, reason: object) -> None:
        """Counts one file."""
        name = str(path)
        self.reasons[name if is_utf8(name) else ascii(name)] = str(reason)

    def require_few(self, total: int, max_bad_fraction: float = MAX_BAD_FRACTION) -> None:
        """Raises ValueError with the list when more than `max_bad_fraction` of `total` files were left out."""
        if not 0 <= max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction={max_bad_fraction}, but it must lie between 0 and 1.")
        if len(self.reasons) > max_bad_fraction * total:
            raise ValueError(
                f"{len(self.reasons)} of {total} files cannot be used, more than the {max_bad_fraction:.1%} allowed. "
                f"Repair or remove them:{self.listing()}"
            )

    def listing(self) -> str:
        """The first files with their reasons, each on a line of its own after a newline."""
        listed = [f"\n  {path}: {reason}" for path, reason in list(self.reasons.items())[:_LISTED]]
        if len(self.reasons) > _LISTED:
            listed.append(f"\n  and {len(self.reasons) - _LISTED} more")
        return "".join(listed)

    def write_report(self, path: str | Path) -> None:
        """Writes the whole list as JSON `{file: reason}`; without bad files, a former report is removed."""
        if self.reasons:
            Path(path).write_text(json.dumps(self.reasons, indent=1, ensure_ascii=False), encoding="utf-8")
        else:
            Path(path).unlink(missing_ok=True)


def is_utf8(name: str) -> bool:
    """Whether a name from the file system can be written as text."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def missing(path: Path) -> str:
    """What to say of a file that is not there."""
    if path.is_symlink():
        return f"missing: a link to {path.readlink()}, which is not there; fetch it first (git annex get, dvc pull)"
    beside = path.parent.iterdir() if path.parent.is_dir() else []
    if any(composed(other.name) == composed(path.name) for other in beside):
        return "missing: the name there has another Unicode form (NFC or NFD); make the index again"
    return "missing"


def require_inside(path: str | Path, folder: str | Path) -> None:
    """Raises ValueError when `path`, links followed, leads out of `folder`: nothing there is read unless asked."""
    require_below(path, os.path.realpath(folder))


def require_below(path: str | Path, root: str) -> None:
    """As `require_inside`, of a folder whose links have been followed: for many files of one folder."""
    real = os.path.realpath(path)
    if os.path.commonpath([real, root]) != root:
        raise ValueError(f"leads to {real}, outside of {root}; if that is meant, give data_dir, a folder holding both.")
