"""Text of other programs is read with or without a byte order mark, and its lines end with newlines alone."""

from pathlib import Path

import pytest

from hf_moshi_ttt.data.text_files import composed, numbered_lines, read_json, read_text


def test_a_mark_is_skipped_and_line_ends_are_newlines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffa\u2028b\r\nc\x85d\re\n".encode())
    assert read_text(tmp_path / "a.txt") == "a\u2028b\nc\x85d\ne\n"
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_known_by_its_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffé\r\nb".encode(encoding))
    assert read_text(tmp_path / "a.txt") == "é\nb"


def test_lines_have_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes("\ufeffa\n\n b\u2028 \r\n\ufeff\nc".encode())
    assert list(numbered_lines(tmp_path / "a.jsonl")) == [(1, b"a"), (3, "b\u2028".encode()), (5, b"c")]


def test_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json: not UTF-8"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not JSON"):
        read_json(tmp_path / "a.json")


def test_labels_are_composed() -> None:
    assert composed("e\u0301") == "é"
