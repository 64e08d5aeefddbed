"""Text that people and other programs wrote, its lines ended by newlines: UTF-8 with or without a byte order mark, or
UTF-16 with one (Praat and Windows write it)."""

import codecs
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_text(path: str | Path) -> str:
    """The text of a file; `\\r\\n` and `\\r` become newlines, other line separators of Unicode stay.

    Raises:
        ValueError: neither UTF-8 nor UTF-16 with a byte order mark.
        OSError: the file cannot be read.
    """
    content = Path(path).read_bytes()
    has_utf16_mark = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if has_utf16_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}).") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: no UTF-8 or no JSON.
        OSError: the file cannot be read.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from error


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Yields the lines of a file that are not blank, undecoded, with their numbers from 1 on."""
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        text = line.removeprefix(codecs.BOM_UTF8).strip()
        if text:
            yield number, text


def composed(text: str) -> str:
    """A label in Unicode's composed form (NFC): macOS hands out decomposed names, other systems composed ones."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
