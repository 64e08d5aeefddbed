"""The codec of a session: streams of sound to codes and back, for either codec that a model may name."""

from typing import Any, Protocol

from torch import Tensor
from transformers import MimiModel

from ..codec.log_mel_codec import LogMelCodecModel
from ..codec.log_mel_stream import LogMelStream
from .mimi_stream import MimiStream


class CodecStream(Protocol):
    """B independent streams of one codec, in whole frames.

    Attributes:
        delay_samples: how much later than its codes the decoded sound comes.
    """

    delay_samples: int

    def encode(self, samples_BS: Tensor, active_B: Tensor) -> Tensor:
        """Codes `[B, K, T]` of the next frames; those of rows that are not active mean nothing."""

    def decode(self, codes_BKT: Tensor, active_B: Tensor) -> Tensor:
        """Samples `[B, S]` float32 of the next frames; rows that are not active are silent."""

    def reset(self, row: int) -> None:
        """Makes a row a fresh stream."""

    def tensors(self) -> dict[str, Tensor]:
        """What the streams remember, by name, a row a stream; they are written in place."""


def open_codec_stream(codec: Any, batch_size: int, num_quantizers: int) -> CodecStream:
    """B streams of a codec, on the device where it is.

    Raises:
        ValueError: a codec that cannot stream.
    """
    if isinstance(codec, LogMelCodecModel):
        return LogMelStream(codec, batch_size, num_quantizers)
    if isinstance(codec, MimiModel):
        return MimiStream(codec, batch_size, num_quantizers)
    raise ValueError(
        f"codec {type(codec).__name__}: only LogMelCodecModel and Kyutai's Mimi can stream. Name one of them as codec "
        "in the model's config.json."
    )
