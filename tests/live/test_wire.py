"""Kyutai's protocol, as its description has it; streams that are no Ogg Opus end with the reason and stay small."""

import numpy as np
import pytest
import sphn

from hf_moshi_ttt.live.endings import CORRUPT, LEFT, MALFORMED, STOPPING, SessionEnded
from hf_moshi_ttt.live.frames import Answer
from hf_moshi_ttt.live.wire import ChatProtocol, OpusInput

from ..fixtures.ogg_pages import ogg_page, opus_headers, unfinished_page


def tone(duration_sec: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(24_000 * duration_sec)) / 24_000)).astype(np.float32)


def opus(samples: np.ndarray) -> bytes:
    writer = sphn.OpusStreamWriter(24_000)
    return b"".join(writer.append_pcm(frame) for frame in samples.reshape(-1, 1920))


def protocol() -> ChatProtocol:
    return ChatProtocol(24_000, 65_536)


def test_audio_comes_through_in_any_pieces() -> None:
    stream, samples = opus(tone(1.6)), tone(1.6)
    whole = protocol().audio(b"\x01" + stream)
    pieces, chat = [], protocol()
    for start in range(0, len(stream), 100):
        pieces.append(chat.audio(b"\x01" + stream[start : start + 100]))
    assert np.array_equal(np.concatenate(pieces), whole) and len(whole) == len(samples)
    delayed = max(
        range(400), key=lambda delay: float(np.dot(whole[4800 + delay : 28_800 + delay], samples[4800:28_800]))
    )
    assert np.corrcoef(whole[4800 + delayed : 28_800 + delayed], samples[4800:28_800])[0, 1] > 0.99


def test_answers_are_audio_and_text() -> None:
    chat, reader = protocol(), sphn.OpusStreamReader(24_000)
    messages = chat.answer(Answer(1, tone(0.08), " hé", 0.1, 0, 0))
    assert [message[0] for message in messages] == [1, 2]
    assert reader.append_bytes(bytes(messages[0][1:])).shape == (1920,)  # type: ignore[arg-type]
    assert messages[1] == b"\x02" + " hé".encode()
    assert chat.answer(Answer(2, None, "", 0.1, 0, 0)) == []
    assert chat.ready() == [b"\x00"] and chat.waiting(3) == [b'\x04{"queue_place": 3}']
    assert chat.ended(STOPPING, "Why.") == [b"\x05Why."] and chat.ended(LEFT, "Why.") == []


def test_other_kinds_are_ignored_and_empty_or_text_messages_refused() -> None:
    chat = protocol()
    for kind in (0, 2, 3, 4, 6, 255):
        assert chat.audio(bytes([kind]) + b"anything").size == 0
    for wrong in (lambda: chat.audio(b""), lambda: chat.command("{}")):
        with pytest.raises(SessionEnded, match=r"^Not a message of this protocol\.") as caught:
            wrong()
        assert caught.value.ending is MALFORMED


@pytest.mark.parametrize(
    "payload",
    [
        b"\0" * 600,
        b"RIFF" + b"\0" * 600,
        opus_headers() + ogg_page([b"\xf8" + b"\xff" * 40], 2)[:-3] + b"OggX" + b"\0" * 600,
        opus_headers() + ogg_page([bytes([3, 255]) + b"\x11" * 50], 2),
        b"".join([opus_headers(), *(unfinished_page(number) for number in range(2, 5))]),
    ],
    ids=["zeros", "wav", "torn page", "no opus", "endless packet"],
)
def test_what_is_no_ogg_opus_is_refused(payload: bytes) -> None:
    with pytest.raises(
        SessionEnded, match=r"^The audio cannot be decoded: send one Ogg Opus stream, mono\.$"
    ) as caught:
        OpusInput(24_000, 65_536).samples(payload)
    assert caught.value.ending is CORRUPT


def test_a_message_of_more_than_a_burst_is_refused_before_it_is_decoded() -> None:
    """Packets of a byte decode to 0.12 s each: 64 kB could be an hour."""
    page = ogg_page([b"\x19"] * 3, 2)
    assert len(OpusInput(24_000, 65_536).samples(opus_headers() + page * 10)) == 10 * 3 * 2880
    with pytest.raises(SessionEnded, match="cannot be decoded"):
        OpusInput(24_000, 65_536).samples(opus_headers() + page * 20)
