"""Kyutai's wire protocol on `/api/chat`, so that their clients work unchanged.

Each message is binary; its first byte is its kind. Audio is one Ogg Opus stream each way. Both ways are described in
`rust/protocol.md` of github.com/kyutai-labs/moshi; what their Python server does is what is done here: a handshake of
one byte, the first frame of the client's audio is not given to the model, and kinds that mean nothing are ignored.
"""

import json

import numpy as np
import sphn

from .endings import CORRUPT, MALFORMED, Ending, SessionEnded
from .frames import Answer

HANDSHAKE, AUDIO, TEXT, METADATA, ERROR = 0, 1, 2, 4, 5


class OpusInput:
    """An Ogg Opus stream, decoded as it comes.

    Args:
        sample_rate_hz: of the samples.
        unheard_bytes: that may come without a sample; an unfinished packet may not grow beyond it.
    """

    def __init__(self, sample_rate_hz: int, unheard_bytes: int) -> None:
        self.reader = sphn.OpusStreamReader(sample_rate_hz)
        self.unheard_bytes, self.waiting_bytes = unheard_bytes, 0

    def samples(self, payload: bytes) -> np.ndarray:
        """Samples `[any]` float32 of some bytes of the stream: at most 5 seconds, which is all that sphn takes at once.

        Raises:
            SessionEnded: no Ogg Opus.
        """
        try:
            samples = self.reader.append_bytes(payload)
        except ValueError as error:
            raise SessionEnded(CORRUPT) from error
        self.waiting_bytes = 0 if samples.size else self.waiting_bytes + len(payload)
        if self.waiting_bytes > self.unheard_bytes:
            raise SessionEnded(CORRUPT)
        return samples


class ChatProtocol:
    """Kyutai's protocol for one client.

    Args:
        sample_rate_hz: of the model.
        unheard_bytes: see `OpusInput`.
    """

    skip_frames = 1  # the first frame of a client's audio is in the past for the model
    has_hello = False
    wants_memory_reports = False

    def __init__(self, sample_rate_hz: int, unheard_bytes: int) -> None:
        self._input = OpusInput(sample_rate_hz, unheard_bytes)
        self._output = sphn.OpusStreamWriter(sample_rate_hz)

    def audio(self, message: bytes) -> np.ndarray:
        """Samples `[any]` float32 of a message; none for kinds other than audio, which are ignored.

        Raises:
            SessionEnded: an empty message, or audio that cannot be decoded.
        """
        if not message:
            raise SessionEnded(MALFORMED, "It is empty.")
        return self._input.samples(message[1:]) if message[0] == AUDIO else np.zeros(0, dtype=np.float32)

    def command(self, text: str) -> dict[str, object]:
        """There are no messages of text.

        Raises:
            SessionEnded: always.
        """
        raise SessionEnded(MALFORMED, "Messages are binary here.")

    def ready(self) -> list[bytes | str]:
        """The handshake: the client has a row from now on."""
        return [bytes([HANDSHAKE])]

    def waiting(self, place: int) -> list[bytes | str]:
        """The place in the queue, as metadata."""
        return [bytes([METADATA]) + json.dumps({"queue_place": place}).encode()]

    def answer(self, answer: Answer) -> list[bytes | str]:
        """Sound and text of a frame."""
        messages: list[bytes | str] = []
        if answer.samples_S is not None:
            messages.append(bytes([AUDIO]) + self._output.append_pcm(answer.samples_S))
        if answer.text:
            messages.append(bytes([TEXT]) + answer.text.encode())
        return messages

    def ended(self, ending: Ending, text: str) -> list[bytes | str]:
        """Why the session ends, as an error; nothing where the client or the clock ended it."""
        return [] if ending.close_code == 1000 else [bytes([ERROR]) + text.encode()]
