"""The logits of a sequence that was read in pieces, as one call would have given them.

Legend: B batch, Q Moshi's codebooks, T frames, M the longest delay, V vocabulary or codebook size.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTOutput


class JoinedPieces:
    """Collects the outputs of consecutive calls on one stream.

    Args:
        max_delay: M, frames of a piece that the next one may still predict.
    """

    def __init__(self, max_delay: int) -> None:
        self.max_delay = max_delay
        self._text: list[Tensor] = []
        self._audio: Tensor | None = None  # [B, Q, M + T, V], from M frames before the first piece on

    def add(self, output: "MoshiTTTOutput") -> None:
        """The next piece; its late logits take the places of those that the pieces before could not have.

        A sequence that is read in one piece needs no stream, and has no late logits.
        """
        text, audio, late = output.text_logits, output.audio_logits, output.late_audio_logits
        assert text is not None and audio is not None, "asked for"
        self._text.append(text)
        if late is None:
            late = audio.new_full((*audio.shape[:2], self.max_delay, audio.shape[3]), math.nan)
        if self._audio is None:
            self._audio = torch.cat([late, audio], dim=2)
            return
        known, open_end = self._audio.tensor_split([self._audio.shape[2] - self.max_delay], dim=2)
        self._audio = torch.cat([known, torch.where(late.isnan(), open_end, late), audio], dim=2)

    def joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[B, T, V]` of the text and `[B, Q, T, V]` of the audio, and `[B, Q, M, V]` of the frames before."""
        assert self._audio is not None, "at least one piece"
        late, audio = self._audio.tensor_split([self.max_delay], dim=2)
        return torch.cat(self._text, dim=1), audio, late
