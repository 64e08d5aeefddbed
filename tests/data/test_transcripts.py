"""Turns of every form are read with their speaker and times; what is not understood is named by file and line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hf_moshi_ttt.data.transcripts import Labels, Turn, read_ctm, read_cues, read_turns, spoken, word_turns

LEFT, RIGHT = "SPEAKER_MAIN", "SPEAKER_USER"
SRT = """1
00:00:01,000 --> 00:00:02,500
<i>A:</i> Hello &amp; <b>welcome</b>
to all.

2
01:00:03.250 --> 01:00:04.000 X1:40 X2:600
[B]: Hi.
A: {\\an8}Yes: well.

3
00:00:05,000 --> 00:00:06,000
A: [laughter]
"""
VTT = """WEBVTT - a title

NOTE
made by hand

STYLE
::cue { color: red }

intro
00:01.000 --> 00:02.500 align:start
<v.loud Roger Bingham>We are <00:01.500><c>in</c> New York</v>
<v Neil>Yes

01:00:03.250 --> 01:00:04.000
<v Neil>((What))?
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        (tmp_path / "a.x").write_text(text, encoding="utf-8")
        return tmp_path / "a.x"

    return write


def test_lines_with_and_without_times(written: Callable[[str], Path]) -> None:
    text = "# fe_03_00001.sph\n\nSPEAKER_MAIN: Hello: you!\n[1.5 2] speaker_user:  Hi.  \n"
    path = written(text + "3.08 4 B: ((oh)) [noise]\nA: [sigh]\n")
    assert read_turns(path) == [
        Turn(LEFT, "Hello: you!"),
        Turn(RIGHT, "Hi.", (1.5, 2.0)),
        Turn(RIGHT, "oh", (3.08, 4.0)),
    ]


def test_a_file_of_one_channel_needs_no_labels(written: Callable[[str], Path]) -> None:
    path = written("12 17 people: came\nB: Hi\n")
    assert [turn.text for turn in read_turns(path, Labels(only=RIGHT))] == ["people: came", "Hi"]
    path = written("Well: yes\n12 people came\n")
    assert read_turns(path, Labels(only=RIGHT)) == [Turn(RIGHT, "Well: yes"), Turn(RIGHT, "12 people came")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "A: a\nHello",
            r"a\.x:2: no speaker is named, but it must be speaker_main or a or 1 or left \(left channel\), or",
        ),
        (
            "ALICE: Hello",
            r"a\.x:1: the speaker is 'ALICE', .*Give others with --speakers LEFT,RIGHT, or a file a channel",
        ),
        ("[2 1] A: Hello", r"a\.x:1: a turn from 2\.0 s to 1\.0 s is no span of time"),
    ],
)
def test_lines_that_are_no_turn_are_refused(written: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_turns(written(text))


def test_line_separators_of_unicode_stay_within_a_turn(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffA: a\u2028b\x85c\x0bd\r\nB: e".encode())
    assert [turn.text.split() for turn in read_turns(tmp_path / "a.txt")] == [["a", "b", "c", "d"], ["e"]]


def test_cues_of_subrip(written: Callable[[str], Path]) -> None:
    assert read_cues(written(SRT.replace("<i>A:</i>", "A: ")), Labels()) == [
        Turn(LEFT, "Hello & welcome to all.", (1.0, 2.5)),
        Turn(RIGHT, "Hi.", (3603.25, 3604.0)),
        Turn(LEFT, "Yes: well.", (3603.25, 3604.0)),
    ]


def test_cues_of_webvtt_with_voices(written: Callable[[str], Path]) -> None:
    assert read_cues(written(VTT), Labels(("Roger Bingham", "Neil"))) == [
        Turn(LEFT, "We are in New York", (1.0, 2.5)),
        Turn(RIGHT, "Yes", (1.0, 2.5)),
        Turn(RIGHT, "What ?", (3603.25, 3604.0)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n00:00:0x,000 --> 00:00:04,000\nA: lost\n", r"a\.x:2: expected `HH:MM:SS,mmm --> .*got '00:00:0x,000 -->"),
        ("1\n00:00:01,000 --> 00:00:04,000\nA: a\n\nlost\n", r"a\.x:5: expected .* got 'lost'"),
        ("\n1\n00:00:09,000 --> 00:00:06,000\nA: back\n", r"a\.x:3: a turn from 9\.0 s to 6\.0 s"),
        ("00:00:01,000 --> 00:00:04,000\nhello\n", r"a\.x:1: no speaker is named"),
        ("00:00:01,000 --> 00:00:04,000\n<v Ann Lee>hello\n", r"a\.x:1: the speaker is 'ann_lee'"),
    ],
)
def test_damaged_cues_are_named_by_their_line(written: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cues(written(text), Labels())


def test_words_of_ctm(written: Callable[[str], Path]) -> None:
    path = written(";; made\nother 1 0.0 1.0 no\ntalk 1 0.50 0.25 Hi 0.99\ntalk 2 0.8 0 <unk>\ntalk 2 1.0 .5 you\n")
    with pytest.raises(
        ValueError, match=r"a\.x:5: expected `RECORDING CHANNEL START DURATION WORD`, got 'talk 2 1\.0 \.5"
    ):
        read_ctm(path, Labels(recording="talk"))
    path = written(path.read_text().replace(" .5", " 0.5"))
    found = [Turn(LEFT, "Hi", (0.5, 0.75), is_word=True), Turn(RIGHT, "you", (1.0, 1.5), is_word=True)]
    assert read_ctm(path, Labels(recording="talk")) == found
    with pytest.raises(ValueError, match=r"about 2 recordings, such as other, and none is a\."):
        read_ctm(path, Labels(recording="a"))
    with pytest.raises(ValueError, match=r"a\.x:1: the speaker is '3', but it must be speaker_main"):
        read_ctm(written("talk 3 0.0 1.0 no\n"), Labels(recording="a"))


def test_what_is_spoken() -> None:
    assert spoken("a [noise] ((b)) <c.x>d</c> {\\an8}e &lt;") == "a b d e <"
    assert word_turns(LEFT, "SIL", 0.0, 1.0) == word_turns(LEFT, "[noise]", 0.0, 1.0) == []
