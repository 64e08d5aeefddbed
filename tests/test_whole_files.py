"""A reader finds the file before or the file after, and no failure leaves a part."""

from pathlib import Path

import pytest

from hf_moshi_ttt.whole_files import replacing, write_whole


def test_a_file_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_whole(path, "before \u00e9")
    with replacing(path) as beside:
        beside.write_text("half")
        assert path.read_bytes() == "before \u00e9".encode() and beside.parent == tmp_path
        assert not beside.match("*.json")
    assert path.read_text() == "half"
    write_whole(str(path), b"\x00")
    assert path.read_bytes() == b"\x00" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none/a\.json: its folder does not exist; make it first"):
        write_whole(tmp_path / "none" / "a.json", "")


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_file_of_before_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    write_whole(path, "before")
    with pytest.raises(error), replacing(path) as beside:
        beside.write_text("half")
        raise error
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
