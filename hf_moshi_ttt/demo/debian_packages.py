"""The Debian packages of the corpus: fetches them, unpacks them and reads the novels out of one of them.

What is different: nothing is installed and no root is needed. `apt-get download` and `dpkg -x` write only to given
folders, and a `.deb` file that somebody put into the cache folder by hand is used in place of a download. The novels
are an R lazy-load database, which is read without R.
"""

import os
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import rdata

NOVELS_PACKAGE = "r-cran-janeaustenr"
PROMPTS_PACKAGE = "asterisk-core-sounds-en-g722"
MAX_PARAGRAPH_CHARS = 900
TITLES = {
    "emma": "Emma",
    "mansfieldpark": "Mansfield Park",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
}


def unpack_package(name: str, cache_dir: Path) -> Path:
    """Return the folder with the unpacked files of Debian package `name`, fetching it when the cache lacks it.

    The folder is `cache_dir/<name>_<version>` and has the package's own tree below it (`usr/...`).

    Raises:
        FileNotFoundError: `dpkg` is missing, or `apt-get` is missing and the cache has no `.deb` of the package.
        RuntimeError: apt-get or dpkg refused; the message holds what they said.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    cache_dir = cache_dir.resolve()
    deb_path = _cached_deb(name, cache_dir) or _download(name, cache_dir)
    unpacked_dir = cache_dir / "_".join(deb_path.stem.split("_")[:2])
    if not unpacked_dir.is_dir():
        with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            contents = Path(scratch) / "contents"
            _run(["dpkg", "-x", str(deb_path), str(contents)], cache_dir, name)
            contents.replace(unpacked_dir)
    return unpacked_dir


def packages_to_install(name: str, cache_dir: Path) -> list[str]:
    """The packages that apt would have to install for `name`, itself among them, which this machine has not.

    Empty without apt-get.

    Raises:
        RuntimeError: apt-get refused; the message holds what it said.
    """
    if shutil.which("apt-get") is None:
        return []
    plan = _run(["apt-get", "--simulate", "--no-install-recommends", "install", name], cache_dir, name)
    return re.findall(r"^Inst (\S+) \(", plan, re.MULTILINE)  # an update names the old version before that


def _cached_deb(name: str, cache_dir: Path) -> Path | None:
    found = sorted(cache_dir.glob(f"{name}_*.deb"))
    return found[-1] if found else None


def _download(name: str, cache_dir: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
        if not _has_candidate(name, cache_dir):
            _refresh_package_lists(name, cache_dir)
        _run(["apt-get", "download", name], Path(scratch), name)
        deb_path = next(Path(scratch).glob("*.deb"))
        cached_path = cache_dir / deb_path.name
        deb_path.replace(cached_path)
        return cached_path


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
        said = done.stderr.strip()[-500:]
        raise RuntimeError(f"`{' '.join(command)}` ended with status {done.returncode}: {said!r}; {by_hand(name)}")
    return done.stdout


def by_hand(name: str) -> str:
    """Return the remedy that works on any machine that can reach a Debian mirror or be handed two files."""
    return (
        f"on a Debian machine run `apt-get download {name}` and put the .deb file into the folder `packages` of the "
        f"output folder (it is unpacked with `dpkg -x {name}_*.deb DIR`)"
    )


def read_novels(package_dir: Path) -> dict[str, list[str]]:
    """Return the paragraphs of each novel, without title pages, headings and notes, from the unpacked Debian package.

    Raises:
        FileNotFoundError: the folder is not the unpacked `r-cran-janeaustenr`.
    """
    data_dir = package_dir / "usr/lib/R/site-library/janeaustenr/data"
    if not (data_dir / "Rdata.rdx").is_file():
        raise FileNotFoundError(f"{data_dir} has no 'Rdata.rdx'; unpack r-cran-janeaustenr into {package_dir}")
    index = _r_object((data_dir / "Rdata.rdx").read_bytes())
    database = (data_dir / "Rdata.rdb").read_bytes()
    novels = {}
    for novel in TITLES:
        offset, length = (int(number) for number in index["variables"][novel])
        # Each value is four bytes of length and a zlib stream.
        lines = _r_object(zlib.decompress(database[offset + 4 : offset + length]))
        novels[novel] = paragraphs_of(str(line) for line in lines)
    return novels


def _r_object(serialised: bytes) -> Any:
    return rdata.conversion.convert(rdata.parser.parse_data(serialised, extension=".rds"))


def paragraphs_of(lines: Iterable[str]) -> list[str]:
    """Join the lines of a novel into paragraphs of at most 900 characters, from its first chapter to its end."""
    blocks = re.split(r"\n\s*\n", "\n".join(lines))
    headings = [re.match(r"\s*(chapter|volume)\s+[\divxl]+\b", block, re.IGNORECASE) is not None for block in blocks]
    paragraphs: list[str] = []
    for place in range(headings.index(True), len(blocks)):
        text = " ".join(re.sub(r"\s*--\s*", "—", blocks[place].replace("_", "")).split())
        if re.match(r"(the end|finis|a note on the text)\b", text, re.IGNORECASE):
            break
        is_note = text[:1] in ("[", "*") or not re.search("[a-z]", text)
        if not headings[place] and not is_note:
            paragraphs.extend(_pieces(text))
    return paragraphs


def _pieces(text: str) -> Iterator[str]:
    """Cut a long paragraph after sentences, so that no chapter has to be much longer than planned."""
    piece = ""
    for sentence in re.split(r"(?<=[.!?;][\"' ])\s*(?=\S)|(?<=[.!?;])\s+", text):
        if piece and len(piece) + len(sentence) + 1 > MAX_PARAGRAPH_CHARS:
            yield piece
            piece = ""
        piece = f"{piece} {sentence.strip()}".strip()
    yield piece
