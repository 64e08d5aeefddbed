"""Every bound on what one client can cost."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Bounds of the server.

    Args:
        queue: clients that may wait for a row.
        connections: open TCP connections; more are closed at once.
        hello_sec: from a connection to its request, and from its upgrade to its first message where one is due.
        session_sec: from a session's first row to its end.
        message_bytes: of one WebSocket message.
        messages_per_sec: that a client may send, over 2 seconds.
        ahead_sec: audio that may come before its time: the jitter that a network makes.
        window_sec: audio is compared with the clock over this time; none of it is silent, less than three
            quarters are slow, as 16 kHz are that are taken for 24.
        unheard_bytes: of Ogg Opus without a decoded sample.
        backlog_frames: frames that wait for the engine in one row; beyond it they are dropped, and counted.
        outgoing: messages that wait for a client to read; a backlog that is answered at once is two a frame.
        unread_sec: that one message may wait for it.
        heartbeat_sec: between pings; a client has half of it to answer.
        memory_bytes: of one saved memory.
        memories: saved memories of one token.

    Raises:
        ValueError: a bound that is not above 0.
    """

    queue: int = 16
    connections: int = 256
    hello_sec: float = 10.0
    session_sec: float = 3600.0
    message_bytes: int = 65536
    messages_per_sec: int = 100
    ahead_sec: float = 4.0
    window_sec: float = 10.0
    unheard_bytes: int = 65536
    backlog_frames: int = 50
    outgoing: int = 400
    unread_sec: float = 5.0
    heartbeat_sec: float = 10.0
    memory_bytes: int = 1 << 30
    memories: int = 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 and not (field.name == "queue" and value == 0):
                raise ValueError(f"{field.name}={value!r}, but it must be above 0.")
