"""`datasets.Audio` read by soundfile: values are paths until samples are asked for, and parts are found by seeking.

What differs from `datasets.Audio`: no torchcodec and no FFmpeg is needed, channels stay apart, and a part of a long
file costs milliseconds. `dataset.cast_column("audio", datasets.Audio())` goes back to the original.
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Audio
from datasets.features.features import register_feature

from ..codec.audio import SAMPLE_RATE_HZ, read_audio


class AudioFile(str):
    """The path of a row's file, or the name of one whose content is stored in the dataset, that can be read.

    As with `datasets.Audio`, `["array"]` is the decoded audio (float32 `[S]`, or `[C, S]` for several channels) and
    `["sampling_rate"]` its rate; `["path"]` and `["bytes"]` are what is stored, `bytes` None for a file on disk. It
    is a text because every format of `datasets` (`with_format("torch")`, `"numpy"`) leaves texts as they are.
    """

    content: bytes | None

    def __new__(cls, path: str | None, content: bytes | None = None) -> "AudioFile":
        """A file on disk, or one in memory whose path is but its name, or None."""
        audio = super().__new__(cls, path or "")
        audio.content = content
        return audio

    def __getnewargs__(self) -> tuple[str, bytes | None]:  # type: ignore[override]  # for pickling
        return str(self), self.content

    def read(self, start_sec: float = 0.0, duration_sec: float | None = None) -> np.ndarray:
        """Samples of the file or a part of it: float32 `[C, S]` at 24 kHz; errors as in `audio.read_audio`."""
        return read_audio(str(self) if self.content is None else self.content, start_sec, duration_sec)

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key == "array":
            samples_CS = self.read()
            return samples_CS[0] if len(samples_CS) == 1 else samples_CS
        return {"sampling_rate": SAMPLE_RATE_HZ, "path": str(self) or None, "bytes": self.content}[key]


@dataclass
class SeekingAudio(Audio):
    """The feature of a column of audio files at 24 kHz.

    Raises:
        ValueError: another sampling rate, or a value without a path or a file's content.
    """

    sampling_rate: int | None = SAMPLE_RATE_HZ
    _type: str = field(default="SeekingAudio", init=False, repr=False)

    def __post_init__(self) -> None:
        if self.sampling_rate != SAMPLE_RATE_HZ:
            raise ValueError(
                f"sampling_rate={self.sampling_rate}, but SeekingAudio reads at {SAMPLE_RATE_HZ} Hz; "
                "cast the column to datasets.Audio for another rate."
            )

    def encode_example(self, value: Any) -> dict[str, Any]:
        """What is stored of a path, or of `{path, bytes}`."""
        if isinstance(value, AudioFile):
            return {"bytes": value.content, "path": value["path"]}
        if isinstance(value, str | Path):
            return {"bytes": None, "path": str(value)}
        if not isinstance(value, dict) or (value.get("path") is None and value.get("bytes") is None):
            raise ValueError(f"SeekingAudio holds audio files, got {type(value).__name__} without path and bytes.")
        return {"bytes": value.get("bytes"), "path": value.get("path")}

    def decode_example(self, value: dict[str, Any], token_per_repo_id: dict[str, Any] | None = None) -> Any:
        """The readable value of a stored one."""
        return AudioFile(value["path"], value["bytes"]) if self.decode else value


with warnings.catch_warnings():  # the registration of features is marked as experimental
    warnings.simplefilter("ignore")
    register_feature(SeekingAudio, "SeekingAudio")
