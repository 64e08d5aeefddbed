"""Audio files are found by their endings; what is left out is counted with its reason."""

import os
import unicodedata
from collections import Counter
from pathlib import Path

from hf_moshi_ttt.data.bad_files import BadFiles
from hf_moshi_ttt.data.walk import shared_names, walk_audio


def walked(root: Path, *names: str) -> tuple[list[str], dict[str, str], Counter[str]]:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    bad, left_out = BadFiles(), Counter[str]()
    found = walk_audio(root, bad, left_out)
    return found, {os.path.relpath(path, root): reason for path, reason in bad.reasons.items()}, left_out


def test_all_formats_that_are_read_are_found_in_order(tmp_path: Path) -> None:
    names = ["a/1.FLAC", "a/2.wav", "b.ogg", "c.opus", "d.mp3", "e.aiff", "f.W64", "g.m4a", "h.m4b"]
    found, bad, left_out = walked(tmp_path, *reversed(names), "notes.txt", "b.json", "ogg")
    assert (found, bad, left_out) == (names, {}, Counter())


def test_other_formats_and_macos_metadata_are_counted(tmp_path: Path) -> None:
    found, bad, left_out = walked(tmp_path, "a.flac", "._a.flac", "__MACOSX/._a.flac", "b.aac", "c.AAC", "d.webm")
    assert (found, bad) == (["a.flac"], {})
    assert left_out == {
        "macOS' metadata (._*), not audio": 2, ".aac is not read: convert it to FLAC (ffmpeg -i NAME.aac NAME.flac)": 2,
        ".webm is not read: convert it to FLAC (ffmpeg -i NAME.webm NAME.flac)": 1,
    }  # fmt: skip


def test_files_that_differ_only_in_their_ending_are_reported(tmp_path: Path) -> None:
    """The JSON beside them would belong to both, and a chapter in two formats would be read twice."""
    found, bad, _ = walked(tmp_path, "a.wav", "a.flac", "b/a.wav", "b.wav", "c.1.wav", "c.2.wav", "d.wav", "d.WAV")
    assert found == ["b.wav", "b/a.wav", "c.1.wav", "c.2.wav"]
    assert sorted(bad) == ["a.flac", "a.wav", "d.WAV", "d.wav"]
    assert bad["a.flac"].startswith("its name differs from a.wav in the ending only") and "Keep one" in bad["a.wav"]


def test_forms_of_a_letter_are_one_name() -> None:
    names = [unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD")]
    assert shared_names(names) == {names[0]: names[1], names[1]: names[0]}
    assert shared_names(["a.wav", "a.wav"]) == {}
