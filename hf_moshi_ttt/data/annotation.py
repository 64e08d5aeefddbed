"""Word times for stereo conversations: from transcripts by an aligner that works offline, or from whisper-timestamped.

For the audio `NAME.wav` one of these is looked for, beside it or in a folder of transcripts with the same subfolders:

- `NAME.txt`, a turn a line: `SPEAKER_MAIN: text` (left channel) or `SPEAKER_USER: text` (right). A line may begin with
  the turn's times in seconds, `[12.5 17.1] SPEAKER_MAIN: text`; without them the words are looked for in all of the
  channel.
- `NAME.words.json` or `NAME.wav.words.json`, what whisper-timestamped writes for the left channel, and, if it is there,
  `NAME.user.words.json` for the right one.

`NAME.json` is written beside the audio in the format of `word_times.py`. Words that the aligner does not know are put
between their neighbours and listed as `estimated_words`; what whisper gives no usable time is listed as
`left_out_words`.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..codec.audio import SAMPLE_RATE_HZ, BadAudioError, read_audio
from .bad_files import MAX_BAD_FRACTION, BadFiles
from .corpora import list_entries
from .forced_alignment import align_words, unknown_words
from .text_files import read_json, read_text
from .word_times import MAIN_SPEAKER, OTHER_SPEAKER, read_word, read_word_times, require_usable
from .workers import run_jobs

CHANNELS = {MAIN_SPEAKER: 0, OTHER_SPEAKER: 1}
_TURN = re.compile(r"(?:\[\s*([\d.]+)\s+([\d.]+)\s*\]\s*)?(\w+):\s*(.*\S)")
Word = tuple[str, float, float]


@dataclass(frozen=True)
class Turn:
    """What a speaker says, and when if that is known."""

    speaker: str
    text: str
    span_sec: tuple[float, float] | None = None


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
) -> AnnotateSummary:
    """Writes the word times of every conversation of an index or folder; those that are there are kept.

    Args:
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
            jobs.append((path, folder))
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


def _annotate_file(path: Path, folder: Path) -> tuple[Path, dict[str, Any] | str]:
    """Annotates one file; returns its path, and what was written or why it could not be done."""
    partial = path.with_suffix(".json.part")
    try:
        content = annotate(path, folder)
        partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        read_word_times(partial)
        partial.replace(path.with_suffix(".json"))
    except (OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        return path, str(error)
    return path, content


def annotate(path: str | Path, transcripts_dir: str | Path) -> dict[str, Any]:
    """The word times of one conversation, in the format of `word_times.py`, from its transcript in a folder.

    Raises:
        ValueError: no transcript, a damaged one, one that does not fit the audio, or audio without two channels.
    """
    path, folder = Path(path), Path(transcripts_dir)
    samples_CS = read_audio(path)
    if len(samples_CS) != 2:
        raise BadAudioError(f"{path}: {len(samples_CS)} channels, but a conversation has 2.")
    duration_sec = samples_CS.shape[1] / SAMPLE_RATE_HZ
    whisper = [
        file for file in (folder / f"{path.stem}.words.json", folder / f"{path.name}.words.json") if file.is_file()
    ]
    estimated: list[str] = []
    left_out: list[str] = []
    if (folder / f"{path.stem}.txt").is_file():
        aligner = f"pocketsphinx {version('pocketsphinx')}"
        words, estimated = _aligned(samples_CS, read_turns(folder / f"{path.stem}.txt"))
    elif whisper:
        aligner = "whisper-timestamped"
        heard = {MAIN_SPEAKER: whisper[0], OTHER_SPEAKER: folder / f"{path.stem}.user.words.json"}
        words = {}
        for speaker, file in heard.items():
            if speaker == MAIN_SPEAKER or file.is_file():
                words[speaker], odd = read_whisper(file)
                left_out += odd
    else:
        raise ValueError(f"{path}: no {path.stem}.txt and no {path.stem}.words.json in {folder}.")
    listed = [[word, [start, end], speaker] for speaker, said in words.items() for word, start, end in said]
    return {
        "alignments": sorted(listed, key=lambda item: item[1][0]),
        "labelled_until_sec": duration_sec,
        "aligner": aligner,
        "estimated_words": estimated,
        "left_out_words": left_out,
    }


def read_turns(path: str | Path) -> list[Turn]:
    """The turns of a transcript.

    Raises:
        ValueError: no UTF-8, or a line that is no turn of one of the two speakers.
    """
    turns = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        match = _TURN.fullmatch(line.strip())
        if match is None or match[3] not in CHANNELS:
            raise ValueError(
                f"{path}:{number}: expected `SPEAKER_MAIN: text` or `SPEAKER_USER: text`, with `[start_sec end_sec]` "
                f"before it or not; got {line!r}."
            )
        span_sec = None if match[1] is None else (float(match[1]), float(match[2]))
        if span_sec is not None and not span_sec[0] < span_sec[1]:
            raise ValueError(f"{path}:{number}: a turn from {span_sec[0]} s to {span_sec[1]} s is no span of time.")
        turns.append(Turn(match[3], match[4], span_sec))
    return turns


def read_whisper(path: str | Path) -> tuple[list[Word], list[str]]:
    """Words `(word, start_sec, end_sec)` of whisper-timestamped's output, in order and without overlaps.

    Also returns why words could not be used, each with the word.

    Raises:
        ValueError: another form, or too many words that cannot be used.
    """
    content = read_json(path)
    try:
        found = [word for segment in content["segments"] for word in segment.get("words", [])]
        said = [(str(word["text"]).strip(), word["start"], word["end"]) for word in found]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not whisper-timestamped's output ({type(error).__name__}: {error}).") from error
    words, left_out = [], []
    for text, start, end in said:
        if text in ("", "[*]"):  # [*]: a disfluency
            continue
        try:
            words.append(read_word(text, start, end, MAIN_SPEAKER))
        except ValueError as error:
            left_out.append(str(error))
    require_usable(path, words, left_out)
    words.sort(key=lambda word: word["start_sec"])
    starts = [word["start_sec"] for word in words[1:]] + [np.inf]
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
