"""Why a live session ends: a code for metrics and pages, WebSocket's close code, and a text for the client.

The texts say what happened and what is allowed, never where in the server.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """One reason.

    Args:
        code: a short name, the label in metrics.
        close_code: WebSocket's close code (RFC 6455, 7.4.1).
        text: what the client reads; at most 123 bytes, the most that a close frame carries.
    """

    code: str
    close_code: int
    text: str


LEFT = Ending("left", 1000, "The client closed the connection.")
LOST = Ending("lost", 1006, "The connection broke, or pings were not answered.")
SILENT = Ending("silent", 1008, "No audio came. Send silence as audio, in real time.")
SLOW = Ending("slow", 1008, "Audio came slower than real time: send mono at 24000 Hz, without gaps.")
FAST = Ending("fast", 1008, "Audio came faster than real time: send mono at 24000 Hz.")
FLOOD = Ending("flood", 1008, "Too many messages a second.")
MALFORMED = Ending("malformed", 1003, "Not a message of this protocol.")
CORRUPT = Ending("corrupt", 1007, "The audio cannot be decoded: send one Ogg Opus stream, mono.")
TOO_LARGE = Ending("too_large", 1009, "A message is larger than the server takes.")
UNREAD = Ending("unread", 1008, "The client does not read what it is sent.")
LATE_HELLO = Ending("late_hello", 1008, "The first message of the protocol did not come in time.")
FULL = Ending("full", 1013, "All rows are taken and the queue is full: try again later.")
EXPIRED = Ending("expired", 1000, "The time of a session is over.")
MODEL_ERROR = Ending("model_error", 1011, "The model failed in this session. Others go on; connect again.")
SERVER_ERROR = Ending("server_error", 1011, "The server failed in this session.")
STOPPING = Ending("stopping", 1001, "The server is stopping.")
ALL = (
    LEFT, LOST, SILENT, SLOW, FAST, FLOOD, MALFORMED, CORRUPT, TOO_LARGE, UNREAD, LATE_HELLO, FULL, EXPIRED,
    MODEL_ERROR, SERVER_ERROR, STOPPING,
)  # fmt: skip


class SessionEnded(Exception):
    """Ends one session, and no other.

    Args:
        ending: why.
        detail: what exactly, in words for the client, or empty.
    """

    def __init__(self, ending: Ending, detail: str = "") -> None:
        super().__init__(f"{ending.text} {detail}".rstrip())
        self.ending = ending
