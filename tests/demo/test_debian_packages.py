"""Fetching and unpacking without root, the remedies that the errors name, and the text that comes out."""

import re
import shutil
from pathlib import Path

import pytest

from hf_moshi_ttt.demo.debian_packages import (
    NOVELS_PACKAGE,
    PROMPTS_PACKAGE,
    TITLES,
    packages_to_install,
    paragraphs_of,
    read_novels,
    unpack_package,
)

from ..fixtures.corpora import package_cache, unpacked


@pytest.fixture(scope="module")
def novels_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory, NOVELS_PACKAGE)


@pytest.fixture
def deb_path(tmp_path_factory: pytest.TempPathFactory, novels_dir: Path) -> Path:
    return next(package_cache(tmp_path_factory).glob(f"{NOVELS_PACKAGE}_*.deb"))


def only_these_tools(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(folder))


def test_what_apt_would_install_is_named_without_what_it_would_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt's own words; an update has the old version in brackets."""
    only_these_tools(monkeypatch, tmp_path / "bin", "sh", "cat")
    assert packages_to_install("espeak-ng", tmp_path) == []
    lines = "Reading package lists...\nInst libogg0 (1.3.5-3 Debian:12.8/oldstable [amd64])\n"
    lines += "Inst libc6 [2.36-9] (2.36-10 Debian:12.8/oldstable [amd64])\nInst espeak-ng (1.51 Debian:12.8 [amd64])\n"
    (tmp_path / "plan").write_text(lines + "Conf libogg0 (1.3.5-3 Debian:12.8/oldstable [amd64])\n")
    (tmp_path / "bin" / "apt-get").write_text(f"#!/bin/sh\ncat {tmp_path / 'plan'}\n")
    (tmp_path / "bin" / "apt-get").chmod(0o755)
    assert packages_to_install("espeak-ng", tmp_path) == ["libogg0", "espeak-ng"]


def test_folder_is_named_after_package_and_version(novels_dir: Path) -> None:
    assert re.fullmatch(NOVELS_PACKAGE + r"_\d[\d.]*-\d+", novels_dir.name)
    assert (novels_dir / "usr/share/doc" / NOVELS_PACKAGE / "copyright").is_file()


def test_unpacked_package_needs_no_tool_again(
    novels_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_these_tools(monkeypatch, tmp_path / "bin")
    assert unpack_package(NOVELS_PACKAGE, novels_dir.parent) == novels_dir


def test_file_put_there_by_hand_is_used_without_apt(
    deb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    shutil.copy(deb_path, tmp_path / "cache")
    only_these_tools(monkeypatch, tmp_path / "bin", "dpkg", "dpkg-deb", "tar", "xz", "rm")
    monkeypatch.chdir(tmp_path)
    assert (unpack_package(NOVELS_PACKAGE, Path("cache")) / "usr/lib/R").is_dir()


def test_missing_apt_names_both_packages_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_these_tools(monkeypatch, tmp_path / "bin")
    with pytest.raises(FileNotFoundError, match="apt-get download r-cran-janeaustenr.*dpkg -x") as error:
        unpack_package(NOVELS_PACKAGE, tmp_path / "cache")
    assert NOVELS_PACKAGE in str(error.value) and PROMPTS_PACKAGE in str(error.value)


def test_unknown_package_without_root_asks_for_new_lists(
    deb_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(RuntimeError, match="'no-such-package-here'; run `sudo apt-get update`"):
        unpack_package("no-such-package-here", tmp_path)


def test_broken_file_reports_what_dpkg_said(deb_path: Path, tmp_path: Path) -> None:
    (tmp_path / deb_path.name).write_bytes(deb_path.read_bytes()[:1000])
    with pytest.raises(RuntimeError, match="dpkg -x .* ended with status"):
        unpack_package(NOVELS_PACKAGE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [deb_path.name]


def test_novels_are_whole_and_clean(novels_dir: Path) -> None:
    novels = read_novels(novels_dir)
    paragraphs = [paragraph for novel in novels.values() for paragraph in novel]
    assert list(novels) == list(TITLES)
    assert sum(len(paragraph.split()) for paragraph in paragraphs) > 700_000
    assert novels["prideprejudice"][0].startswith("It is a truth universally acknowledged")
    assert novels["northangerabbey"][-1].endswith("reward filial disobedience.")
    assert not [text for text in paragraphs if re.match(r"(chapter|volume) [ivx\d]+$", text, re.IGNORECASE)]
    assert not [text for text in paragraphs if "\n" in text or "_" in text or "--" in text]
    assert max(map(len, paragraphs)) < 1200


def test_wrong_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="unpack r-cran-janeaustenr into"):
        read_novels(tmp_path)


def test_paragraphs_start_at_the_first_chapter_and_stop_at_the_end() -> None:
    title_page = ["A TALE", "", "By Nobody", ""]
    body = [
        "CHAPTER I",
        "",
        "One _fine_ day--a",
        "Monday.",
        "",
        "[A note.]",
        "",
        "Chapter 2",
        "",
        "Two.",
        "",
        "THE END",
    ]
    assert paragraphs_of([*title_page, *body, "", "Printed somewhere."]) == ["One fine day—a Monday.", "Two."]


def test_long_paragraph_is_cut_after_sentences_and_loses_nothing() -> None:
    sentences = [f"Sentence number {number} is here." for number in range(100)]
    pieces = paragraphs_of(["Chapter 1", "", *sentences])
    assert len(pieces) > 1 and max(map(len, pieces)) <= 900
    assert " ".join(pieces) == " ".join(sentences)
