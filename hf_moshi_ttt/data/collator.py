"""From segments of codes to a batch: `codes` and `labels` `[B, 17, T]`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec.audio import FRAME_RATE_HZ
from ..codec.stream_rows import text_row, user_rows
from ..configuration_moshi_ttt import MoshiTTTConfig
from ..special_ids import IGNORE_ID, NO_INPUT_ID
from ..transformer.losses import audio_weights, mask_unpredicted, text_weights


@dataclass
class MoshiTTTCollator:
    """Builds batches `[B, K = 17, T]` and right-pads them with -1.

    A mono recording `[8, T]` becomes Moshi's rows; its text row is the configuration's `text_stream` ("zero" is a row
    of EPAD ids) without text loss, its user's rows the configuration's `user_stream`. A conversation `[17, T]` stays as
    it is. Labels are the codes, with -100 where nothing is to be learned: padding, absent codes, the text of mono
    recordings, the user's rows, and a segment's last frames of delayed codebooks, which it leaves without a prediction
    however long the other segments of the batch are.

    With two codebooks (K = 5), EPAD 0, a mono segment of two frames and one of three:

        [[7, 8],        ->  codes[0] = [[ 0,  0, -1],   labels[0] = [[-100, -100, -100],   text: zero stream, no loss
         [1, 2]]                        [ 7,  8, -1],                [   7,    8, -100],   Moshi
                                        [ 1,  2, -1],                [   1, -100, -100],   its delayed codebook
                                        [ 7,  8, -1],                [-100, -100, -100],   user: duplicate, no loss
                                        [ 1,  2, -1]]                [-100, -100, -100]]

    The batch also holds `lengths` `[B]` in frames, `mask` `[B, T]` (True inside a segment), `weights` `[B, 9, T]` (what
    each target of rows 0-8 counts in the losses, 0 where labels are -100 or no prediction exists), `recording`,
    `start_frame` and `starts_recording` `[B]`, which say where the memory of a lane is reset. An empty row, whose
    codes are None, is all padding.

    Args:
        silence_codes: `[8]`, one frame of digital silence; needed for `user_stream="silence"`.
        only_model_inputs: whether a batch holds `codes` and `labels` alone, which the model's forward takes: for
            transformers' own Trainer and loops written by hand.
    """

    config: MoshiTTTConfig
    silence_codes: Sequence[int] | None = None
    only_model_inputs: bool = False

    def __post_init__(self) -> None:
        if self.config.user_stream == "silence" and self.silence_codes is None:
            raise ValueError('user_stream="silence" needs silence_codes; the provenance of the codes holds them.')
        if self.silence_codes is not None and len(self.silence_codes) != self.config.num_codebooks:
            raise ValueError(
                f"silence_codes has {len(self.silence_codes)} ids, but the model {self.config.num_codebooks} codebooks."
            )

    def __call__(self, segments: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """The batch of segments `{codes [K, T], recording, start_frame}`, of which `SegmentDataset` gives more keys.

        Rows with codes alone are whole recordings, whose `recording` is -1.

        Raises:
            ValueError: a segment with another number of rows or frame rate, or ids out of range or no whole numbers.
        """
        self._check_rates(segments)
        rows = [
            None if segment["codes"] is None else self.frame_codes(np.asarray(segment["codes"])) for segment in segments
        ]
        lengths = torch.tensor([0 if row is None else row[0].shape[1] for row in rows])
        codes = torch.full((len(rows), self.config.num_streams, max(1, int(lengths.max()))), NO_INPUT_ID)
        labels = torch.full_like(codes, IGNORE_ID)
        for place, row in enumerate(rows):
            if row is not None:
                length, own = row[0].shape[1], slice(1, 1 + self.config.num_codebooks)
                codes[place, :, :length], labels[place, :, :length] = map(torch.from_numpy, row)
                labels[place, own, :length] = mask_unpredicted(labels[place, own, :length], self.config, IGNORE_ID)
        if self.only_model_inputs:
            return {"codes": codes, "labels": labels}
        return {
            "codes": codes,
            "labels": labels,
            "weights": self._weights(labels),
            "lengths": lengths,
            "mask": torch.arange(codes.shape[2]) < lengths[:, None],
            "recording": torch.tensor([int(segment.get("recording", -1)) for segment in segments]),
            "start_frame": torch.tensor([int(segment.get("start_frame", 0)) for segment in segments]),
            "starts_recording": torch.tensor([_starts(segment) for segment in segments]),
        }

    def frame_codes(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes and labels `[17, T]` of one segment `[8, T]` or `[17, T]`.

        Raises:
            ValueError: another number of rows, or ids out of range or no whole numbers.
        """
        count, streams = self.config.num_codebooks, self.config.num_streams
        if codes.ndim != 2 or codes.shape[0] not in (count, streams) or codes.shape[1] == 0:
            raise ValueError(f"A segment must be [{count}, T] or [{streams}, T] with T > 0; got {list(codes.shape)}.")
        if codes.dtype.kind not in "iu":
            raise ValueError(
                f"Codes are {codes.dtype}, but ids are whole numbers: give an integer type. Are they samples?"
            )
        codes = codes.astype(np.int64, copy=False)
        is_mono = codes.shape[0] == count
        if is_mono:
            user = user_rows(self.config, codes, self.silence_codes)
            codes = np.concatenate([text_row(self.config, codes.shape[1]), codes, user])
        self._check_range(codes)
        labels = np.where(codes >= 0, codes, IGNORE_ID)
        labels[1 + count :] = IGNORE_ID
        if is_mono:
            labels[0] = IGNORE_ID
        return codes, labels

    def _weights(self, labels: Tensor) -> Tensor:
        own = mask_unpredicted(labels[:, 1 : 1 + self.config.num_codebooks], self.config)
        return torch.cat([text_weights(labels[:, :1], self.config), audio_weights(own, self.config)], dim=1)

    def _check_rates(self, segments: Sequence[dict[str, Any]]) -> None:
        rates = sorted({float(segment.get("frame_rate_hz", FRAME_RATE_HZ)) for segment in segments})
        if rates != [FRAME_RATE_HZ]:
            raise ValueError(f"A batch with segments of {rates} frames a second, but Moshi has {FRAME_RATE_HZ}.")

    def _check_range(self, codes: np.ndarray) -> None:
        config = self.config
        for name, rows, size in (
            ("text", codes[:1], config.text_vocab_size),
            ("audio", codes[1:], config.codebook_size),
        ):
            if rows.min() < NO_INPUT_ID or rows.max() >= size:
                raise ValueError(
                    f"{name} codes must lie in -1..{size - 1}; got {rows.min()}..{rows.max()}. "
                    "Were they made with another codec or tokenizer than the model's?"
                )


def _starts(segment: dict[str, Any]) -> bool:
    return bool(segment.get("starts_recording", segment.get("start_frame", 0) == 0))
