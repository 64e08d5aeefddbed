"""Files are found here, in a repository's folder, or are refused; the Hub itself is tried in test_saving.py."""

from pathlib import Path

import pytest

from hf_moshi_ttt.codec.hub_files import local_file


def test_files_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "words.model").write_bytes(b"")
    assert local_file(tmp_path / "words.model") == tmp_path / "words.model"
    assert local_file("words.model", str(tmp_path)) == tmp_path / "words.model"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.model: no such file.$"):
        local_file("nowhere.model")
    with pytest.raises(ValueError, match=f"nowhere.model: no such file here or in {tmp_path}."):
        local_file("nowhere.model", str(tmp_path))
    with pytest.raises(ValueError, match="hf://owner/name: expected hf://owner/repository/file"):
        local_file("hf://owner/name")
