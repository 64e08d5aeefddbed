"""Real recorded speech with a known text: a narrator's numbers and names, laid out as a two-channel conversation.

The prompts are those of the Debian package that the demo uses; what a prompt says is known from its file's name.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_moshi_ttt.demo.human_speech import decode_prompt

SPOKEN = {
    "digits/0": "zero", "digits/1": "one", "digits/2": "two", "digits/3": "three", "digits/4": "four",
    "digits/5": "five", "digits/6": "six", "digits/7": "seven", "digits/8": "eight", "digits/9": "nine",
    "digits/10": "ten", "digits/11": "eleven", "digits/12": "twelve", "digits/17": "seventeen", "digits/20": "twenty",
    "digits/hundred": "hundred", "digits/thousand": "thousand", "digits/million": "million", "digits/day-0": "Sunday,",
    "digits/day-3": "Wednesday,", "digits/mon-0": "January", "digits/mon-8": "September", "digits/today": "today.",
    "digits/tomorrow": "tomorrow?", "digits/yesterday": "yesterday!", "digits/dollars": "dollars",
}  # fmt: skip
LOUD = 0.05


@dataclass(frozen=True)
class Conversation:
    """Samples `[2, S]` at 24 kHz, what is said in turns `(speaker, text)`, and where each word really is.

    `truth` holds `(speaker, word, start_sec, end_sec)`, from the samples louder than a twentieth of a prompt's peak.
    """

    samples_CS: np.ndarray
    turns: list[tuple[str, str]]
    truth: list[tuple[str, str, float, float]]

    @property
    def duration_sec(self) -> float:
        return self.samples_CS.shape[1] / 24_000

    def transcript(self) -> str:
        return "".join(f"{speaker}: {text}\n" for speaker, text in self.turns)


def real_conversation(package_dir: Path, turns: int, seed: int, gap_sec: float = 0.25) -> Conversation:
    """Turns of two to six words, left and right in turn, with random short gaps between the words."""
    (sounds,) = (package_dir / "usr/share/asterisk/sounds").iterdir()
    rng = np.random.default_rng(seed)
    laid: list[tuple[int, int, np.ndarray]] = []
    said, truth = [], []
    cursor = 0
    for turn in range(turns):
        speaker = ("SPEAKER_MAIN", "SPEAKER_USER")[turn % 2]
        names = [list(SPOKEN)[index] for index in rng.integers(len(SPOKEN), size=rng.integers(2, 7))]
        said.append((speaker, " ".join(SPOKEN[name] for name in names)))
        for name in names:
            cursor += int(rng.uniform(0, 2 * gap_sec) * 24_000)
            samples = decode_prompt(sounds / f"{name}.g722").astype(np.float32)
            loud = np.flatnonzero(np.abs(samples) > LOUD * np.abs(samples).max())
            truth.append((speaker, SPOKEN[name], (cursor + loud[0]) / 24_000, (cursor + loud[-1]) / 24_000))
            laid.append((turn % 2, cursor, samples))
            cursor += len(samples)
    samples_CS = np.zeros((2, cursor + 12_000), np.float32)
    for channel, start, samples in laid:
        samples_CS[channel, start : start + len(samples)] += samples
    return Conversation(samples_CS, said, truth)
