"""Transcripts of two-channel recordings as turns: plain text, SubRip, WebVTT, CTM and Praat's TextGrid.

A turn is a word with its times, or a text of several words that has to be aligned, within its times if it has any. A
label says whose turn it is: SPEAKER_MAIN, A, 1 or left for the left channel, SPEAKER_USER, B, 2 or right for the right
one, or other labels that are given. Of two files, one a channel, labels are not looked at.

Lines and time marks that are not understood are errors with file and line, where the known packages skip them or take
them for text. Marks of noise in brackets (`[laughter]`) and markup are left out.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .text_files import read_text
from .word_times import MAIN_SPEAKER, OTHER_SPEAKER

_LABELS = ((MAIN_SPEAKER, "A", "1", "left"), (OTHER_SPEAKER, "B", "2", "right"))
_NUMBER = r"\d+(?:\.\d+)?"
_TURN = re.compile(rf"(?:\[\s*({_NUMBER})\s+({_NUMBER})\s*\]\s*|({_NUMBER})\s+({_NUMBER})\s+(?=[\w-]+:))?(.*\S)")
_LABELLED = re.compile(r"\[?([\w-]+)\]?:\s*(.*)", re.S)
_CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d\d)[.,](\d{3})"
_CUE_TIMES = re.compile(rf"{_CLOCK}\s+-->\s+{_CLOCK}(?:\s.*)?")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]*)>")
_MARKUP = re.compile(r"</?[a-zA-Z0-9.:][^>]*>|\{\\[^}]*\}")
_NOISE = re.compile(r"\[[^\]]*\]|\(\(|\)\)")
_SILENCES = {"", "sil", "sp", "spn", "<eps>", "<unk>", "%hesitation"}


@dataclass(frozen=True)
class Turn:
    """What a speaker says, and when if that is known; a word with times is not aligned."""

    speaker: str
    text: str
    span_sec: tuple[float, float] | None = None
    is_word: bool = False


@dataclass(frozen=True)
class Labels:
    """Whose turns the labels of a transcript name.

    Args:
        given: the labels of the left and the right channel, None for the known ones.
        only: the one speaker of the file, whatever its labels.
        recording: name of the recording without its ending, for files that hold several.
    """

    given: tuple[str, str] | None = None
    only: str | None = None
    recording: str = ""

    def names(self) -> dict[str, str]:
        """Speakers by label, in lower case."""
        groups = _LABELS if self.given is None else tuple((label,) for label in self.given)
        speakers = (MAIN_SPEAKER, OTHER_SPEAKER)
        return {_key(label): who for who, group in zip(speakers, groups, strict=True) for label in group}

    def knows(self, label: str) -> bool:
        """Whether a label names a channel."""
        return _key(label) in self.names()

    def speaker(self, label: str | None, where: str) -> str:
        """The speaker of a turn.

        Args:
            label: None for a turn without one.
            where: file and line, for errors.

        Raises:
            ValueError: no label, or one that names no channel, where the file holds both.
        """
        if self.only is not None:
            return self.only
        if label is not None and self.knows(label):
            return self.names()[_key(label)]
        left, right = (
            [name for name, who in self.names().items() if who == speaker] for speaker in (MAIN_SPEAKER, OTHER_SPEAKER)
        )
        found = "no speaker is named" if label is None else f"the speaker is {label!r}"
        raise ValueError(
            f"{where}: {found}, but it must be {' or '.join(left)} (left channel), or {' or '.join(right)} (right). "
            "Give others with --speakers LEFT,RIGHT, or a file a channel, the right one's as NAME.user.EXT."
        )


def _key(label: str) -> str:
    return "_".join(label.lower().split())


def spoken(text: str) -> str:
    """A text without markup and marks of noise."""
    return " ".join(_NOISE.sub(" ", html.unescape(_MARKUP.sub("", text))).split())


def read_turns(path: str | Path, labels: Labels | None = None) -> list[Turn]:
    """The turns of a text file, one a line: `A: text`, `[12.5 17.1] A: text` or, as in Fisher, `12.5 17.1 A: text`.

    Lines that begin with `#` are comments.

    Raises:
        ValueError: no UTF-8, or a line that is no turn of one of the two speakers.
    """
    labels, turns = labels or Labels(), []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        match = _TURN.fullmatch(line.strip())
        if match is None or line.lstrip().startswith("#"):
            continue
        where = f"{path}:{number}"
        start, end = match[1] or match[3], match[2] or match[4]
        span_sec = None if start is None else _span(float(start), float(end), where)
        turns += [Turn(*said, span_sec) for said in _said(match[5], labels, where)]
    return turns


def read_cues(path: str | Path, labels: Labels) -> list[Turn]:
    """The turns of a SubRip (.srt) or WebVTT file: `A: text`, `[A]: text` or, in WebVTT, `<v A>text`.

    Raises:
        ValueError: no UTF-8, a block that is no cue, or a cue without a known speaker.
    """
    turns = []
    for number, block in _blocks(read_text(path)):
        if re.match(r"(WEBVTT|NOTE|STYLE|REGION)\b", block[0]) and not any(map(_CUE_TIMES.fullmatch, block)):
            continue
        at = next((at for at, line in enumerate(block[:2]) if "-->" in line), 0)
        where = f"{path}:{number + at}"
        times = _CUE_TIMES.fullmatch(block[at].strip())
        if times is None:
            raise ValueError(f"{where}: expected `HH:MM:SS,mmm --> HH:MM:SS,mmm` and text below it, got {block[at]!r}.")
        span_sec = _span(_clock_sec(*times.groups()[:4]), _clock_sec(*times.groups()[4:]), where)
        turns += [
            Turn(*said, span_sec) for text in _voices(block[at + 1 :], labels) for said in _said(text, labels, where)
        ]
    return turns


def read_ctm(path: str | Path, labels: Labels) -> list[Turn]:
    """The words of a CTM file: `RECORDING CHANNEL START_SEC DURATION_SEC WORD [CONFIDENCE]`.

    Of a file with several recordings those lines are taken that name this one. `;;` begins a comment.

    Raises:
        ValueError: no UTF-8, a line of another form, or no line about this recording.
    """
    found: list[tuple[str, str, list[str]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        fields = line.split()
        if fields and not line.startswith(";;"):
            where = f"{path}:{number}"
            if len(fields) < 5 or not all(re.fullmatch(_NUMBER, field) for field in fields[2:4]):
                raise ValueError(f"{where}: expected `RECORDING CHANNEL START DURATION WORD`, got {line!r}.")
            found.append((where, fields[0], fields[1:5]))
    names = sorted({name for _, name, _ in found})
    if len(names) > 1 and labels.recording not in names:
        raise ValueError(
            f"{path}: its lines are about {len(names)} recordings, such as {names[0]}, and none is {labels.recording}."
        )
    turns = []
    for where, name, (channel, start, duration, word) in found:
        if name == labels.recording or len(names) == 1:
            turns += word_turns(labels.speaker(channel, where), word, float(start), float(start) + float(duration))
    return turns


def word_turns(speaker: str, text: str, start_sec: float, end_sec: float) -> list[Turn]:
    """A word with its times, none for a mark of silence or noise."""
    is_silence = text.lower() in _SILENCES or not (word := spoken(text))
    return [] if is_silence else [Turn(speaker, word, (start_sec, end_sec), is_word=True)]


def _span(start_sec: float, end_sec: float, where: str) -> tuple[float, float]:
    if not start_sec < end_sec:
        raise ValueError(f"{where}: a turn from {start_sec} s to {end_sec} s is no span of time.")
    return start_sec, end_sec


def _clock_sec(hours: str | None, minutes: str, seconds: str, milliseconds: str) -> float:
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(milliseconds) / 1000


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields runs of lines that are not blank, each with the number of its first line."""
    block: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _voices(lines: list[str], labels: Labels) -> list[str]:
    """The texts of a cue, each with its label before it: parts of WebVTT's voices, or lines that begin with a label."""
    parts: list[str] = []
    for line in _VOICE.sub(lambda match: f"\n{_key(match[1])}: ", "\n".join(lines)).split("\n"):
        match = _LABELLED.fullmatch(line.strip())
        if not parts or (match and labels.knows(match[1])):
            parts.append(line)
        else:
            parts[-1] += f" {line}"
    return [part for part in parts if part.strip()]


def _said(text: str, labels: Labels, where: str) -> list[tuple[str, str]]:
    """Speaker and words of a turn, none for one of noise alone."""
    match = _LABELLED.fullmatch(text.strip())
    label = match[1] if match and (labels.knows(match[1]) or labels.only is None) else None
    words = spoken(match[2] if match and label is not None else text)
    speaker = labels.speaker(label, where)
    return [(speaker, words)] if words else []
