"""TextGrids of Praat, long and short, and of forced aligners; damage is named by its line."""

from pathlib import Path

import pytest

from hf_moshi_ttt.data.text_grid import read_text_grid
from hf_moshi_ttt.data.transcripts import Labels, Turn

LEFT, RIGHT = "SPEAKER_MAIN", "SPEAKER_USER"


def long_form(tiers: dict[str, list[tuple[float, float, str]]]) -> str:
    """As Praat writes it."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", "xmax = 2", "tiers? <exists>"]
    lines += [f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers.items(), start=1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
        ]
        lines += ["        xmax = 2", f"        intervals: size = {len(intervals)}"]
        for place, (start, end, text) in enumerate(intervals, start=1):
            quoted = text.replace('"', '""')
            lines += [f"        intervals [{place}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines += [f'            text = "{quoted}"']
    return "\n".join(lines) + "\n"


TALK = {"A": [(0, 1, 'say "hi"\nthere'), (1, 2, "")], "right": [(0, 0.5, "sil"), (0.5, 1.25, "yes"), (1.25, 2, "so")]}
TURNS = [
    Turn(LEFT, 'say "hi" there', (0.0, 1.0)),
    Turn(RIGHT, "yes", (0.5, 1.25), is_word=True),
    Turn(RIGHT, "so", (1.25, 2.0), is_word=True),
]


def write(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    (folder / "a.TextGrid").write_bytes(text.encode(encoding))
    return folder / "a.TextGrid"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_long_form(tmp_path: Path, encoding: str) -> None:
    assert read_text_grid(write(tmp_path, long_form(TALK), encoding), Labels()) == TURNS


def test_the_short_form_with_points_and_comments(tmp_path: Path) -> None:
    text = """File type = "ooTextFile"
Object class = "TextGrid"

0 ! seconds
2
<exists>
3
"TextTier" "A" 0 2 1
0.5 "click"
"IntervalTier" "A" 0 2 2
0 1 "say ""hi"" there"
1 2 ""
"IntervalTier" "right" 0 2 3
0 5e-1 "sil" 0.5 1.25 "yes" 1.25 2 "so"
"""
    assert read_text_grid(write(tmp_path, text), Labels()) == TURNS


def test_words_of_forced_aligners(tmp_path: Path) -> None:
    words, phones = [(0, 0.5, "yes"), (0.5, 2, "")], [(0, 0.2, "J"), (0.2, 2, "EH")]
    tiers = {"ann - words": words, "ann - phones": phones, "bob - words": [(0, 2, "spn")], "bob - phones": phones}
    found = [Turn(LEFT, "yes", (0.0, 0.5), is_word=True)]
    assert read_text_grid(write(tmp_path, long_form(tiers)), Labels(("ann", "bob"))) == found
    one = {"words": words, "phones": phones}
    assert read_text_grid(write(tmp_path, long_form(one)), Labels(only=LEFT)) == found


@pytest.mark.parametrize(
    ("tiers", "labels", "message"),
    [
        (
            {"A": [(0, 2, "a")], "C": []},
            Labels(),
            r"has the interval tiers \['A', 'C'\], but one for each channel, called s",
        ),
        ({"A": [(0, 2, "a")], "left": []}, Labels(), r"\['A', 'left'\], but one for each"),
        (
            {"A": [(0, 2, "a")], "C": []},
            Labels(only=LEFT),
            r"\['A', 'C'\], but one is expected\. .*--speakers LEFT,RIGHT",
        ),
    ],
)
def test_tiers_that_name_no_speaker(tmp_path: Path, tiers: dict, labels: Labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_text_grid(write(tmp_path, long_form(tiers)), labels)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"TextGrid"', '"Pitch"', r"a\.TextGrid: not a TextGrid, but 'Pitch'"),
        ("xmin = 0.5", "xmin = 0.5x", r":36: after this line a number should follow, got '\"yes\"' in line 37"),
        ('text = "so"\n', "", r":40: the file ends where a text should follow"),
        ("size = 2", "size = 1e999", r"a\.TextGrid:\d+: inf is no count"),
        ("size = 2", "size = 2.5", r"a\.TextGrid:\d+: 2.5 is no count"),
        ("<exists>", "", r":5: after this line <exists> or <absent> should follow, got '2' in line 7"),
    ],
)
def test_damage_is_named_by_its_line(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = long_form(TALK)
    assert before in text
    with pytest.raises(ValueError, match=message):
        read_text_grid(write(tmp_path, text.replace(before, after, 1)), Labels())


def test_two_tiers_of_one_name_are_refused(tmp_path: Path) -> None:
    text = long_form({"A": TALK["A"], "B": TALK["A"], "C": TALK["right"]})
    with pytest.raises(ValueError, match=r"a\.TextGrid:\d+: a second tier is named 'A': rename one"):
        read_text_grid(write(tmp_path, text.replace('"B"', '"A"')), Labels())
    twice = long_form({"A - words": TALK["right"], "A - word": TALK["right"]})
    with pytest.raises(ValueError, match=r"two tiers of words for one speaker among \['A - words', 'A - word'\]"):
        read_text_grid(write(tmp_path, twice), Labels())
