"""Frames of lines are found from their times, and recordings from the paths of their codes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_moshi_ttt.data.codes import PROVENANCE_FILE, Provenance
from hf_moshi_ttt.data.spoken_lines import SpokenLines, load_spoken_lines

from ..conftest import save_codes

LINES = [[0.0, 0.30, 1, "a"], [0.39, 0.56, 1, "b"], [0.60, 0.72, 2, "a"]]


def test_lines_take_the_frames_in_which_they_are_said() -> None:
    said = SpokenLines.of(LINES, 11)
    assert said.saying_T.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, -1]
    assert said.text_of_saying.tolist() == [0, 1, 0]


@pytest.mark.parametrize("index", ["", "index.jsonl"])
def test_every_recording_has_its_own_lines(index: str, tmp_path: Path) -> None:
    codes = save_codes(tmp_path / "codes", [12, 20])
    provenance = Provenance.load(codes / PROVENANCE_FILE)
    replace(provenance, source=str(tmp_path / index)).save(codes)
    for number, lines in enumerate((LINES, LINES[:1])):
        (tmp_path / f"{number}.json").write_text(json.dumps({"lines": lines}))
    first, second = load_spoken_lines(str(codes))
    assert first.text_of_saying.tolist() == [0, 1, 0] and len(first.saying_T) == 12
    assert second.text_of_saying.tolist() == [0] and second.saying_T.tolist() == [0] * 4 + [-1] * 16
    for other in ("{}", "[]"):
        (tmp_path / "1.json").write_text(other)
        with pytest.raises(ValueError, match="1.json: no JSON with 'lines' there, but .*codes is to be read"):
            load_spoken_lines(str(codes))
