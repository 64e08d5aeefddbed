"""The codec of a session is found by its type."""

import pytest
import torch

from hf_moshi_ttt.codec.log_mel_stream import LogMelStream
from hf_moshi_ttt.codec.pretrained_codec import load_codec
from hf_moshi_ttt.live.codec_stream import open_codec_stream


def test_the_log_mel_codec_streams(codec_path: str) -> None:
    assert isinstance(open_codec_stream(load_codec(codec_path), 2, 8), LogMelStream)


def test_other_codecs_are_refused() -> None:
    with pytest.raises(ValueError, match="codec Linear: only LogMelCodecModel and Kyutai's Mimi can stream. Name one"):
        open_codec_stream(torch.nn.Linear(1, 1), 1, 8)
