"""The unpacked Debian packages for the tests of the offline corpus, fetched once for a whole test run."""

import shutil
from pathlib import Path

import pytest

from hf_moshi_ttt.demo.debian_packages import unpack_package


def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which all test files of a run share the packages; skips where Debian's tools are missing."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("needs apt-get and dpkg, which only Debian and its relatives have")
    return tmp_path_factory.getbasetemp() / "packages"


def unpacked(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Return the folder of one unpacked package."""
    return unpack_package(name, package_cache(tmp_path_factory))
