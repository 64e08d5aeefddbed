"""Two-channel conversations with word times in the layout of `kyutai/DailyTalkContiguous`.

What is different: the lines come from `chatterbot-corpus` and are spoken by the neural voice that reads the books. The
left channel is Moshi's one speaker, the right channel a user whose voice changes from conversation to conversation.
Turns overlap a little or leave a pause. Every line is used once, so no held-out line occurs in training. Lines
with a word that the aligner does not know are left out, so every word that is spoken has its times.
"""

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from chatterbot_corpus.corpus import DATA_DIRECTORY
from numpy.typing import NDArray

from ..data.forced_alignment import align_words, unknown_words
from ..whole_files import replacing
from .books import (
    SAMPLE_RATE_HZ,
    TRAIN_VOICES,
    UNSEEN_VOICES,
    Voice,
    build_missing,
    even_loudness,
    write_text,
)

MAIN = "SPEAKER_MAIN"
USER = "SPEAKER_USER"
MAIN_VOICE = TRAIN_VOICES[0]
USER_VOICES = (*TRAIN_VOICES[1:], *UNSEEN_VOICES)
HELDOUT_SHARE = 0.1
TARGET_SEC = (25.0, 46.0)
LONGEST_SEC = 52.0
CHARS_PER_SEC = 13.0
GAP_SEC = (-0.25, 0.7)
MAX_TURNS, MAX_TURN_CHARS = 14, 200
TOPICS_NOT_SPOKEN = ("coding",)


@dataclass(frozen=True)
class Turn:
    """What one speaker, SPEAKER_MAIN or SPEAKER_USER, says before the other answers."""

    speaker: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """A conversation to be spoken. `number` counts from 1 and names its files."""

    number: int
    heldout: bool
    user_voice: Voice
    turns: tuple[Turn, ...]
    seed: int

    @property
    def path(self) -> str:
        """The audio's path below the folder of the data set."""
        return f"data_stereo/{self.number}.wav"


def load_exchanges() -> list[list[str]]:
    """Return short exchanges of lines that can be spoken and aligned, two speakers in turn, each line once."""
    exchanges: list[list[str]] = []
    seen: set[str] = set()
    for path in sorted(Path(DATA_DIRECTORY, "english").glob("*.yml")):
        if path.stem in TOPICS_NOT_SPOKEN:
            continue
        for raw in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            lines = [" ".join(line.split()) for line in raw if isinstance(line, str)]
            keys = {line_key(line) for line in lines}
            if len(lines) == len(raw) and _is_speakable(lines) and not keys & seen:
                seen |= keys
                exchanges.append(lines)
    return exchanges


def line_key(line: str) -> str:
    """Return the letters and digits of a line, by which two lines count as the same."""
    return re.sub("[^a-z0-9]", "", line.lower())


def _is_speakable(lines: list[str]) -> bool:
    plain = r"(?=.*[A-Za-z])[A-Za-z0-9 .,;:!?'\"’“”()$%&/—–-]+"
    fits = all(len(line) <= MAX_TURN_CHARS and re.fullmatch(plain, line) for line in lines)
    return fits and 2 <= len(lines) <= MAX_TURNS and not any(map(unknown_words, lines))


def plan_conversations(exchanges: list[list[str]], count: int, seed: int) -> list[Conversation]:
    """Join exchanges into conversations of 20 to 60 seconds; the last tenth, at least one of two, is held out.

    Raises:
        ValueError: there are not enough exchanges for `count` conversations, or `count` is negative.
    """
    if count < 0:
        raise ValueError(f"count is {count}, but 0 or more conversations can be made; give 0 for none")
    rng = np.random.default_rng([seed, 3])
    waiting = [exchanges[place] for place in rng.permutation(len(exchanges))]
    heldout_count = max(1, round(count * HELDOUT_SHARE)) if count > 1 else 0
    planned: list[Conversation] = []
    for number in range(1, count + 1):
        lines = _take_lines(waiting, float(rng.uniform(*TARGET_SEC)))
        if not lines:
            raise ValueError(
                f"{count} conversations are asked for, but chatterbot-corpus has lines for {len(planned)}; "
                f"ask for at most {len(planned)}"
            )
        first = int(rng.integers(2))
        turns = tuple(Turn((MAIN, USER)[(first + place) % 2], line) for place, line in enumerate(lines))
        voice = USER_VOICES[int(rng.integers(len(USER_VOICES)))]
        conversation_seed = zlib.crc32(f"{seed}/conversation/{number}".encode())
        planned.append(Conversation(number, number > count - heldout_count, voice, turns, conversation_seed))
    return planned


def _take_lines(waiting: list[list[str]], target_sec: float) -> list[str]:
    """Take exchanges off the list until they last long enough; empty when no more of them fit."""
    lines: list[str] = []
    while (total_sec := sum(map(_line_sec, lines))) < target_sec:
        room_sec = LONGEST_SEC - total_sec
        fitting = (place for place, exchange in enumerate(waiting) if sum(map(_line_sec, exchange)) <= room_sec)
        if (place := next(fitting, None)) is None:
            return []
        lines.extend(waiting.pop(place))
    return lines


def _line_sec(line: str) -> float:
    """Expected seconds of a line and of the gap after it."""
    return len(line) / CHARS_PER_SEC + float(np.mean(GAP_SEC)) + 0.3


def speak_conversation(conversation: Conversation) -> tuple[NDArray[np.float32], list[list[Any]]]:
    """Synthesise and align one conversation.

    Returns:
        audio: [samples, channels=2], left SPEAKER_MAIN, right SPEAKER_USER.
        alignments: `[word, [start_sec, end_sec], speaker]` sorted by start.
    """
    rng = np.random.default_rng(conversation.seed)
    spoken: list[tuple[int, Turn, NDArray[np.float32]]] = []
    alignments: list[list[Any]] = []
    cursor = int(0.3 * SAMPLE_RATE_HZ)
    for turn in conversation.turns:
        voice = MAIN_VOICE if turn.speaker == MAIN else conversation.user_voice
        samples = voice.say(turn.text, int(rng.integers(2**31)))
        for word, times_sec in _word_times(samples, voice, turn.text):
            alignments.append(
                [word, [round(cursor / SAMPLE_RATE_HZ + time_sec, 3) for time_sec in times_sec], turn.speaker]
            )
        spoken.append((cursor, turn, samples))
        cursor += len(samples) + int(rng.uniform(*GAP_SEC) * SAMPLE_RATE_HZ)
    return _two_channels(spoken), sorted(alignments, key=lambda entry: entry[1])


def _word_times(samples: NDArray[np.float32], voice: Voice, text: str) -> list[tuple[str, list[float]]]:
    """Seconds of each word of [samples], which the aligner hears at the pitch that the package's voice has."""
    aligned = align_words(samples, SAMPLE_RATE_HZ / voice.pitch_ratio, text)
    return [(word, [time_sec / voice.pitch_ratio for time_sec in times_sec]) for word, times_sec in aligned]


def _two_channels(spoken: list[tuple[int, Turn, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Lay turns, given with their first sample, on two channels of even loudness: [samples, channels=2]."""
    length = max(start + len(samples) for start, _, samples in spoken) + int(0.3 * SAMPLE_RATE_HZ)
    audio = np.zeros((length, 2), np.float32)
    for start, turn, samples in spoken:
        audio[start : start + len(samples), 0 if turn.speaker == MAIN else 1] += samples
    return np.stack([even_loudness(audio[:, channel]) for channel in range(2)], axis=1)


def write_conversation(conversation: Conversation, dailytalk_dir: Path) -> dict[str, Any]:
    """Write one conversation's WAV and, last, its JSON; returns the JSON."""
    audio, alignments = speak_conversation(conversation)
    wav_path = dailytalk_dir / conversation.path
    wav_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(wav_path) as beside:
        soundfile.write(beside, audio, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    record = {
        "alignments": alignments,
        "labelled_until_sec": len(audio) / SAMPLE_RATE_HZ,
        "duration_sec": len(audio) / SAMPLE_RATE_HZ,
        "user_voice": conversation.user_voice.name,
    }
    write_text(wav_path.with_suffix(".json"), json.dumps(record) + "\n")
    return record


def build_conversations(planned: list[Conversation], dailytalk_dir: Path, num_proc: int) -> list[dict[str, Any]]:
    """Write all conversations that are not there yet and both lists; returns every JSON in the order given."""
    jobs = [(dailytalk_dir / conversation.path, (conversation, dailytalk_dir)) for conversation in planned]
    records = build_missing(write_conversation, jobs, num_proc, "conversations")
    for name, heldout in (("dailytalk.jsonl", False), ("dailytalk_heldout.jsonl", True)):
        write_text(dailytalk_dir / name, "".join(_list_lines(planned, records, heldout)))
    return records


def _list_lines(planned: list[Conversation], records: list[dict[str, Any]], heldout: bool) -> Iterator[str]:
    for conversation, record in zip(planned, records, strict=True):
        if conversation.heldout == heldout:
            yield json.dumps({"path": conversation.path, "duration": record["duration_sec"]}) + "\n"
