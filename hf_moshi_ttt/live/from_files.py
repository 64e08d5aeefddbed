"""A session without a listener: a recording goes on, with the user's side from a file, as fast as it can.

Axes: T frames, S samples.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..codec.audio import FRAME_SAMPLES, Frames, read_audio, sec_from_frames, whole_frames
from ..codec.text_pieces import words_of_pieces

if TYPE_CHECKING:
    from .session import MoshiTTTSession


@dataclass(frozen=True)
class Prompt:
    """What was said before a session, one row.

    Args:
        codes_BKT: `[1, K, T]` of both voices, or None for a stream that starts with nothing said.
        user_S: all of the user's sound, before and after frame T; None where there is no user.
    """

    codes_BKT: Tensor | None
    user_S: np.ndarray | None


@dataclass(frozen=True)
class Continuation:
    """What was said in a session.

    Args:
        codes_BKT: `[1, K, T]` of the new frames; the user's rows are absent (-1).
        pieces: the text of each frame.
        frame_ms: the time of each step in milliseconds.
        memory: `memory_stats` after each step, where they were watched.
    """

    codes_BKT: Tensor
    pieces: list[str]
    frame_ms: list[float]
    memory: list[list[dict[str, Any]]]

    @property
    def words(self) -> list[dict[str, Any]]:
        """`word` and `start_sec` of what was said, counted from the first new frame."""
        return [{"word": word, "start_sec": sec_from_frames(first)} for word, first, _ in words_of_pieces(self.pieces)]


def read_prompt(
    processor: Any, path: Path | None, user_path: Path | None = None, prompt_frames: Frames | None = None
) -> Prompt:
    """A prompt from audio files.

    Args:
        path: Moshi's voice, in a second channel the user's; None where only the user is heard.
        user_path: the user's voice, for a `path` of one channel.
        prompt_frames: how much of `path` is read, None for all.

    Raises:
        BadAudioError: a file that cannot be read.
        ValueError: two users, or more than one channel of a user.
    """
    channels = [] if path is None else list(read_audio(path))
    if len(channels) > 2:
        raise ValueError(f"{path}: has {len(channels)} channels; it may have Moshi's, and the user's as a second one.")
    if user_path is not None and len(channels) == 2:
        raise ValueError(f"{path} has the user in its second channel, and {user_path} has one too: leave one out.")
    user = channels[1] if len(channels) == 2 else None
    if user_path is not None:
        user = _one_channel(user_path)
    if not channels:
        return Prompt(None, user)
    own = channels[0][: None if prompt_frames is None else prompt_frames * FRAME_SAMPLES]
    beside = None if user is None else _of_length(user, len(own))
    return Prompt(processor(own, user_audio=beside)["codes"], user)


def _one_channel(path: Path) -> np.ndarray:
    channels = read_audio(path)
    if len(channels) != 1:
        raise ValueError(f"{path}: has {len(channels)} channels, but one user has one.")
    return channels[0]


def _of_length(samples_S: np.ndarray, length: int) -> np.ndarray:
    """The first samples, with silence where there are not enough."""
    return np.pad(samples_S[:length], (0, max(0, length - len(samples_S))))


def continue_prompt(
    session: "MoshiTTTSession", prompt: Prompt, new_frames: int, *, watch: bool = False, progress: bool = False
) -> Continuation:
    """The next frames of a session of one row; the user is silent once their sound ends.

    A stream that has begun goes on with the frame that it chose last, and the user begins beside that one. Where the
    prompt has no user, the user's rows are those of the session's `user_stream`.

    Args:
        watch: whether to take `memory_stats` after each step.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a prompt for a stream that has begun, or as in `MoshiTTTSession.prefill`.
    """
    has_begun = bool((session.state.frames > 0).any())
    told_steps = 0 if has_begun else 1  # the first step tells the prompt's last frame, or nothing
    steps = told_steps + new_frames
    user = None if prompt.user_S is None else _heard(prompt, has_begun, steps)
    if prompt.codes_BKT is not None:
        frames = prompt.codes_BKT.shape[2]
        beside = None if prompt.user_S is None else _of_length(prompt.user_S, frames * FRAME_SAMPLES)
        session.prefill(prompt.codes_BKT, None if beside is None else torch.from_numpy(beside)[None])
    said, frame_ms, memory = [], [], []
    for step in tqdm(range(steps), desc="generate", unit="frame", disable=not progress):
        start = time.perf_counter()
        said.append(session.step(None if user is None else user[None, step]))
        frame_ms.append(1e3 * (time.perf_counter() - start))
        if watch:
            memory.append(session.memory_stats(0))
    new = said[told_steps:]
    own_BQT = torch.stack([torch.cat([frame.text_ids_B[:, None], frame.codes_BQ], dim=1) for frame in new], dim=2)
    codes_BKT = torch.cat([own_BQT, torch.full_like(own_BQT[:, 1:], -1)], dim=1)
    return Continuation(codes_BKT, [frame.text[0] for frame in new], frame_ms[told_steps:], memory[told_steps:])


def _heard(prompt: Prompt, has_begun: bool, steps: int) -> np.ndarray:
    """The user's frames `[steps, 1920]`: each is heard one step after Moshi's frame beside it was chosen."""
    first = 0 if has_begun else -1 if prompt.codes_BKT is None else prompt.codes_BKT.shape[2] - 1
    padded_S = np.pad(np.asarray(prompt.user_S, dtype=np.float32), (FRAME_SAMPLES if first < 0 else 0, 0))
    frames_TN = whole_frames(_of_length(padded_S, (max(first, 0) + steps) * FRAME_SAMPLES))
    return frames_TN.reshape(-1, FRAME_SAMPLES)[max(first, 0) :]
