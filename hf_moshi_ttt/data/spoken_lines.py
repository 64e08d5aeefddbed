"""The lines of recordings whose JSON lists them, as frames of their codes (`demo/programmes.py` writes such JSON)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..codec.audio import frame_at_sec
from .codes import load_codes
from .text_files import read_json


@dataclass(frozen=True)
class SpokenLines:
    """Which line is said in each frame of a recording.

    Args:
        saying_T: int64 `[T]`, the number of the saying in the recording, -1 between sayings.
        text_of_saying: int64 `[sayings]`, equal numbers for equal words.
    """

    saying_T: Tensor
    text_of_saying: Tensor

    @classmethod
    def of(cls, lines: Sequence[Sequence[Any]], frames: int) -> "SpokenLines":
        """Of the `lines` of a JSON, each `[start_sec, end_sec, number of its hearing, text]`, in their order.

        A frame belongs to the line that begins in it, or else to the one that is said in it.
        """
        saying_T = torch.full((frames,), -1)
        numbers: dict[str, int] = {}
        for saying, (start_sec, end_sec, _, text) in enumerate(lines):
            saying_T[frame_at_sec(start_sec) : frame_at_sec(end_sec) + 1] = saying
            numbers.setdefault(text, len(numbers))
        return cls(saying_T, torch.tensor([numbers[text] for *_, text in lines], dtype=torch.long))


def load_spoken_lines(codes: str) -> list[SpokenLines]:
    """The lines of every recording of encoded ones, in their order, from the JSON beside the audio that was encoded.

    Args:
        codes: folder of encoded recordings; its provenance says where the audio is.

    Raises:
        ValueError: a recording without a JSON, or one whose JSON lists no lines.
    """
    rows, provenance = load_codes(codes)
    source = Path(provenance.source or "")
    audio_dir = source if source.is_dir() else source.parent  # an index lies in the folder that its paths start from
    found = []
    for row in rows.select_columns(["path", "frames"]):
        path = Path(audio_dir, str(row["path"])).with_suffix(".json")
        content = read_json(path) if path.is_file() else None
        lines = content.get("lines") if isinstance(content, dict) else None
        if not lines:
            raise ValueError(
                f"{path}: no JSON with 'lines' there, but {codes} is to be read with its lines. Keep the audio of "
                "make-programmes and its JSON where it was encoded, and start in the same folder."
            )
        found.append(SpokenLines.of(lines, int(row["frames"])))
    return found
