"""Fetches Debian packages and unpacks them into a cache folder, without installing them and without root.

What is different: `apt-get download` and `dpkg -x` only write where they are told, so the system stays as it is. A
`.deb` file that somebody put into the cache folder by hand is used in place of a download.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NOVELS_PACKAGE = "r-cran-janeaustenr"
PROMPTS_PACKAGE = "asterisk-core-sounds-en-g722"


def unpack_package(name: str, cache_dir: Path) -> Path:
    """Return the folder with the unpacked files of Debian package `name`, fetching it when the cache lacks it.

    The folder is `cache_dir/<name>_<version>` and has the package's own tree below it (`usr/...`).

    Raises:
        FileNotFoundError: `dpkg` is missing, or `apt-get` is missing and the cache has no `.deb` of the package.
        RuntimeError: apt-get or dpkg refused; the message holds what they said.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    deb_path = _cached_deb(name, cache_dir) or _download(name, cache_dir)
    unpacked_dir = cache_dir / "_".join(deb_path.stem.split("_")[:2])
    if not unpacked_dir.is_dir():
        with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            contents = Path(scratch) / "contents"
            _run(["dpkg", "-x", str(deb_path), str(contents)], cache_dir, name)
            os.replace(contents, unpacked_dir)
    return unpacked_dir


def package_version(unpacked_dir: Path) -> str:
    """Return the Debian version in the folder name that `unpack_package` gave, such as `1.6.1-1`."""
    return unpacked_dir.name.split("_")[1]


def _cached_deb(name: str, cache_dir: Path) -> Path | None:
    found = sorted(cache_dir.glob(f"{name}_*.deb"))
    return found[-1] if found else None


def _download(name: str, cache_dir: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
        download = ["apt-get", "download", name]
        if not _has_candidate(name, cache_dir):
            _refresh_package_lists(name, cache_dir)
        _run(download, Path(scratch), name)
        deb_path = next(Path(scratch).glob("*.deb"))
        return Path(os.replace(deb_path, cache_dir / deb_path.name) or cache_dir / deb_path.name)


def _has_candidate(name: str, working_dir: Path) -> bool:
    """Whether the machine's package lists know a version of the package."""
    return "Version:" in _run(["apt-cache", "--quiet", "show", "--no-all-versions", name], working_dir, name)


def _refresh_package_lists(name: str, working_dir: Path) -> None:
    if os.geteuid() != 0:
        raise RuntimeError(
            f"apt's package lists do not know {name!r}; run `sudo apt-get update` and start again, or {by_hand(name)}"
        )
    _run(["apt-get", "update"], working_dir, name)


def _run(command: list[str], working_dir: Path, name: str) -> str:
    """Run a package tool and return its standard output."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(
            f"{command[0]!r} is not on this machine, and the corpus needs the Debian packages {NOVELS_PACKAGE!r} and "
            f"{PROMPTS_PACKAGE!r}; {by_hand(name)}"
        )
    done = subprocess.run(command, cwd=working_dir, capture_output=True, text=True, check=False)
    if done.returncode != 0 and command[0] != "apt-cache":
        raise RuntimeError(
            f"`{' '.join(command)}` ended with status {done.returncode}: {done.stderr.strip()[-500:]!r}; {by_hand(name)}"
        )
    return done.stdout


def by_hand(name: str) -> str:
    """Return the remedy that works on any machine that can reach a Debian mirror or be handed two files."""
    return (
        f"on a Debian machine run `apt-get download {name}` and put the .deb file into the folder `packages` of the "
        f"output folder (it is unpacked with `dpkg -x {name}_*.deb DIR`)"
    )
