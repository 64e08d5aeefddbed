"""Word times for stereo conversations: from transcripts of many forms, aligned offline where they lack word times.

For the audio `NAME.wav` the first of these is taken, named `NAME` or `NAME.wav` with an ending, beside it or in a
folder of transcripts with the same subfolders:

| ending | what it is | times of words |
| --- | --- | --- |
| `.words.json` | output of whisper-timestamped, or of whisper with word times; the left channel's | its own |
| `.ctm` | NIST's words with channel, start and duration | its own |
| `.TextGrid` | Praat's tiers, one a speaker | its own, or aligned within each interval |
| `.vtt`, `.srt` | WebVTT or SubRip, cues that name their speaker | aligned within each cue |
| `.txt` | a turn a line, `A: text`, with `[start_sec end_sec]` before it or not | aligned |

`transcripts.py` says how turns name their speaker. `NAME.user` with the same ending is the right channel's file, if
there is one; the first is then the left channel's alone.

`NAME.json` is written beside the audio in the format of `word_times.py`. Words that the aligner does not know are put
between their neighbours and listed as `estimated_words`; words without a usable time, or after the
recording's end, are listed as `left_out_words`.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..codec.audio import SAMPLE_RATE_HZ, BadAudioError, read_audio
from ..whole_files import replacing
from .bad_files import MAX_BAD_FRACTION, BadFiles
from .corpora import list_entries
from .forced_alignment import align_words, unknown_words
from .text_files import read_json
from .text_grid import read_text_grid
from .transcripts import Labels, Turn, read_ctm, read_cues, read_turns
from .word_times import MAIN_SPEAKER, MAX_ODD_FRACTION, OTHER_SPEAKER, read_word, read_word_times, require_usable
from .workers import run_jobs

CHANNELS = {MAIN_SPEAKER: 0, OTHER_SPEAKER: 1}
Word = tuple[str, float, float]
_WHISPER = ".words.json"
_READERS: dict[str, Callable[[Path, Labels], list[Turn]]] = {
    ".ctm": read_ctm, ".TextGrid": read_text_grid, ".vtt": read_cues, ".srt": read_cues, ".txt": read_turns,
}  # fmt: skip
ENDINGS = (_WHISPER, *_READERS)


@dataclass
class AnnotateSummary:
    """What became of the files of a corpus."""

    annotated: int = 0
    kept: int = 0
    estimated_words: int = 0
    left_out_words: int = 0
    bad: BadFiles = field(default_factory=BadFiles)


def annotate_corpus(
    source: str | Path,
    transcripts_dir: str | Path | None = None,
    overwrite: bool = False,
    num_proc: int = 1,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    data_dir: str | Path | None = None,
    speakers: tuple[str, str] | None = None,
) -> AnnotateSummary:
    """Writes the word times of every conversation of an index or folder; those that are there are kept.

    Args:
        speakers: how the transcripts call the speakers of the left and the right channel, None for the known names.
        data_dir: the folder that all files must lie in, links followed; None for the index's own.

    Raises:
        ValueError: bad index, or too many files without a usable transcript.
    """
    summary = AnnotateSummary()
    entries = list_entries(source, summary.bad, data_dir)
    total = len(entries) + len(summary.bad.reasons)
    jobs = []
    for entry in entries:
        if not overwrite and Path(entry["path"]).with_suffix(".json").exists():
            summary.kept += 1
        else:
            path = Path(entry["path"])
            folder = path.parent if transcripts_dir is None else Path(transcripts_dir, entry["name"]).parent
            jobs.append((path, folder, speakers))
    with tqdm(desc="annotate", unit="file", total=len(entries), initial=summary.kept) as bar:
        for path, content in run_jobs(_annotate_file, jobs, num_proc, bar):
            if isinstance(content, str):
                summary.bad.add(path, content)
                continue
            summary.annotated += 1
            summary.estimated_words += len(content["estimated_words"])
            summary.left_out_words += len(content["left_out_words"])
    summary.bad.require_few(total, max_bad_fraction)
    return summary


def _annotate_file(path: Path, folder: Path, speakers: tuple[str, str] | None) -> tuple[Path, dict[str, Any] | str]:
    """Annotates one file; returns its path, and what was written or why it could not be done."""
    try:
        content = annotate(path, folder, speakers)
        with replacing(path.with_suffix(".json")) as beside:
            beside.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            read_word_times(beside)
    except (OSError, ValueError) as error:
        return path, str(error)
    return path, content


def annotate(path: str | Path, transcripts_dir: str | Path, speakers: tuple[str, str] | None = None) -> dict[str, Any]:
    """The word times of one conversation, in the format of `word_times.py`, from its transcript in a folder.

    Args:
        speakers: how the transcript calls the speakers of the left and the right channel, None for the known names.

    Raises:
        ValueError: no transcript, a damaged one, one that does not fit the audio, or audio without two channels.
    """
    path, folder = Path(path), Path(transcripts_dir)
    samples_CS = read_audio(path)
    if len(samples_CS) != 2:
        raise BadAudioError(f"{path}: {len(samples_CS)} channels, but a conversation has 2.")
    ending, file, right = _transcript_of(path, folder)
    duration_sec = samples_CS.shape[1] / SAMPLE_RATE_HZ
    words: dict[str, list[Word]] = {}
    estimated: list[str] = []
    left_out: list[str] = []
    aligner = ending.removeprefix(".")
    if ending == _WHISPER:
        aligner = "whisper-timestamped"
        for speaker, heard in {MAIN_SPEAKER: file, OTHER_SPEAKER: right}.items():
            if heard is not None:
                words[speaker], odd = read_whisper(heard, duration_sec)
                left_out += odd
    else:
        turns = _turns_of(ending, file, right, Labels(speakers, recording=path.stem))
        words, left_out = _timed(turns, file, duration_sec)
        aligned, late = _beginning_inside([turn for turn in turns if not turn.is_word], file, duration_sec)
        left_out += late
        if aligned:
            aligner = f"pocketsphinx {version('pocketsphinx')}"
            found, estimated = _aligned(samples_CS, aligned)
            words = {speaker: words[speaker] + found[speaker] for speaker in CHANNELS}
    listed = [[word, [start, end], speaker] for speaker, said in words.items() for word, start, end in said]
    return {
        "alignments": sorted(listed, key=lambda item: item[1][0]),
        "labelled_until_sec": duration_sec,
        "aligner": aligner,
        "estimated_words": estimated,
        "left_out_words": left_out,
    }


def _transcript_of(path: Path, folder: Path) -> tuple[str, Path, Path | None]:
    """The ending of a recording's transcript, its file, and that of the right channel, None where there is none."""
    for ending in ENDINGS:
        for file in (folder / f"{path.stem}{ending}", folder / f"{path.name}{ending}"):
            if file.is_file():
                right = folder / f"{path.stem}.user{ending}"
                return ending, file, right if right.is_file() else None
    raise ValueError(f"{path}: no transcript in {folder}: {path.stem} with one of {', '.join(ENDINGS)}.")


def _turns_of(ending: str, file: Path, right: Path | None, labels: Labels) -> list[Turn]:
    read = _READERS[ending]
    if right is None:
        return read(file, labels)
    return [*read(file, replace(labels, only=MAIN_SPEAKER)), *read(right, replace(labels, only=OTHER_SPEAKER))]


def _beginning_inside(turns: list[Turn], file: Path, duration_sec: float) -> tuple[list[Turn], list[str]]:
    """The turns that do not begin after a recording's end, and what to say of the others.

    Raises:
        ValueError: more of the others than `MAX_ODD_FRACTION` allows.
    """
    late = [turn for turn in turns if turn.span_sec is not None and turn.span_sec[0] > duration_sec]
    left_out = [_after_the_end(turn.text, *turn.span_sec, duration_sec) for turn in late if turn.span_sec]
    if left_out and (len(late) > max(1.0, MAX_ODD_FRACTION * len(turns)) or len(late) == len(turns)):
        raise ValueError(f"{file}: {left_out[0].rstrip('.')} ({len(late)} of {len(turns)} turns cannot be used).")
    return [turn for turn in turns if turn not in late], left_out


def _after_the_end(text: str, start_sec: float, end_sec: float, duration_sec: float) -> str:
    return f"{text!r} from {start_sec} s to {end_sec} s begins after the recording's end at {duration_sec:.3f} s."


def _timed(turns: Iterable[Turn], file: Path, duration_sec: float) -> tuple[dict[str, list[Word]], list[str]]:
    """The words of turns that are words, by speaker, and why others could not be used."""
    words: dict[str, list[Word]] = {}
    left_out: list[str] = []
    for speaker in CHANNELS:
        own = [turn for turn in turns if turn.is_word and turn.speaker == speaker]
        said = [(turn.text, *turn.span_sec) for turn in own if turn.span_sec]
        words[speaker], odd = _usable(file, said, duration_sec)
        left_out += odd
    return words, left_out


def read_whisper(path: str | Path, duration_sec: float = math.inf) -> tuple[list[Word], list[str]]:
    """Words `(word, start_sec, end_sec)` of whisper-timestamped's output, in order and without overlaps.

    whisper, faster-whisper and whisperX call a word's text `word` instead of `text`; both are read.

    Also returns why words could not be used, each with the word.

    Args:
        duration_sec: of the recording; words that begin after it cannot be used.

    Raises:
        ValueError: another form, or too many words that cannot be used.
    """
    content = read_json(path)
    try:
        found = [word for segment in content["segments"] for word in segment.get("words", [])]
        said = [(str(word[_text_key(word)]).strip(), word["start"], word["end"]) for word in found]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not whisper-timestamped's output ({type(error).__name__}: {error}).") from error
    heard = [word for word in said if word[0] not in ("", "[*]")]  # [*]: a disfluency
    return _usable(path, heard, duration_sec)


def _text_key(word: dict[str, Any]) -> str:
    return "text" if "text" in word else "word"


def _usable(
    path: str | Path, said: Iterable[tuple[str, Any, Any]], duration_sec: float
) -> tuple[list[Word], list[str]]:
    """Words in order, without overlaps and inside the recording, and why others cannot be used."""
    words, left_out = [], []
    for text, start, end in said:
        try:
            word = read_word(text, start, end, MAIN_SPEAKER)
        except ValueError as error:
            left_out.append(str(error))
            continue
        if word["start_sec"] > duration_sec:
            left_out.append(_after_the_end(text, start, end, duration_sec))
        else:
            words.append(word)
    require_usable(path, words, left_out)
    words.sort(key=lambda word: word["start_sec"])
    starts = [*(word["start_sec"] for word in words), duration_sec][1:]
    return [_until(word, after) for word, after in zip(words, starts, strict=True)], left_out


def _until(word: dict[str, Any], after_sec: float) -> Word:
    return word["word"], word["start_sec"], min(word["end_sec"], after_sec)


def _aligned(samples_CS: np.ndarray, turns: Iterable[Turn]) -> tuple[dict[str, list[Word]], list[str]]:
    """Words of each speaker, and those of them whose times are estimated.

    Turns without times are joined up to the next one with times and looked for in the audio between.
    """
    words: dict[str, list[Word]] = {speaker: [] for speaker in CHANNELS}
    estimated: list[str] = []
    for speaker, channel in CHANNELS.items():
        own = [turn for turn in turns if turn.speaker == speaker]
        for text, start_sec, end_sec in _stretches(own, samples_CS.shape[1] / SAMPLE_RATE_HZ):
            first, last = round(start_sec * SAMPLE_RATE_HZ), round(end_sec * SAMPLE_RATE_HZ)
            found, unknown = _align_text(samples_CS[channel, first:last], text)
            words[speaker] += [(word, start_sec + start, start_sec + end) for word, start, end in found]
            estimated += unknown
    return words, estimated


def _stretches(turns: list[Turn], duration_sec: float) -> list[tuple[str, float, float]]:
    """Texts of one speaker and where to look for them."""
    stretches: list[tuple[str, float, float]] = []
    free: list[str] = []
    begin_sec = 0.0
    for turn in [*turns, Turn("", "", (duration_sec, duration_sec))]:
        if turn.span_sec is None:
            free.append(turn.text)
            continue
        start_sec, end_sec = (min(max(begin_sec, second), duration_sec) for second in turn.span_sec)
        if free:
            stretches.append((" ".join(free), begin_sec, start_sec))
        if turn.text:
            stretches.append((turn.text, start_sec, end_sec))
        free, begin_sec = [], end_sec
    return stretches


def _align_text(samples_S: np.ndarray, text: str) -> tuple[list[Word], list[str]]:
    """Every word of a text with times `(word, start_sec, end_sec)`, and those whose times are estimated."""
    aligned = align_words(samples_S, SAMPLE_RATE_HZ, text)
    unknown = unknown_words(text)
    known = iter(aligned)
    timed: list[Word | str] = []
    left = list(unknown)
    for token in text.split():
        if left and token == left[0]:
            timed.append(left.pop(0))
        elif re.search(r"\w", token):
            word, (start, end) = next(known)
            timed.append((word, start, end))
    return _filled(timed, len(samples_S) / SAMPLE_RATE_HZ), unknown


def _filled(timed: list[Word | str], duration_sec: float) -> list[Word]:
    """Words without times are spread evenly between their neighbours."""
    words: list[Word] = []
    waiting: list[str] = []
    for item in [*timed, ("", duration_sec, duration_sec)]:
        if isinstance(item, str):
            waiting.append(item)
            continue
        before = words[-1][2] if words else 0.0
        edges = np.linspace(before, max(before, item[1]), len(waiting) + 1).round(3).tolist()
        words += [(word, edges[place], edges[place + 1]) for place, word in enumerate(waiting)]
        words.append(item)
        waiting = []
    return words[:-1]
