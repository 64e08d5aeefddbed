"""One client from its first message to its last: whatever it does ends its own session, with a reason.

Four tasks run until one of them ends the session: messages are received, sent and carried out, and the row is waited
for, held and watched. Nothing that a client sends or fails to send keeps another one waiting.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import WebSocketError, WSCloseCode, WSMsgType, web

from . import endings
from .endings import Ending, SessionEnded
from .engine import Engine, Seat
from .frames import Answer, Inbox, MemoryReport
from .limits import Limits
from .memories import MemoryStore
from .metrics import LiveMetrics
from .pace import Pace
from .page_wire import PageProtocol
from .rows import Rows
from .wire import ChatProtocol

_WATCH_SEC = 0.25
_GOODBYE_SEC = 1.0
_COMMANDS = 8  # that may wait
_CLOSED_BY_CLIENT = (WSCloseCode.OK, WSCloseCode.GOING_AWAY, 0, 1005)  # 0 and 1005: without a code
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """What all connections share; `store` is None where no memories are saved."""

    engine: Engine
    rows: Rows
    metrics: LiveMetrics
    limits: Limits
    store: MemoryStore | None


class Connection:
    """A client.

    Args:
        shared: with all others.
        socket: its WebSocket, prepared.
        protocol: that it speaks.
        owner: of the memories that it saves.
    """

    def __init__(
        self, shared: Shared, socket: web.WebSocketResponse, protocol: ChatProtocol | PageProtocol, owner: str
    ) -> None:
        self.shared, self.socket, self.protocol, self.owner = shared, socket, protocol, owner
        session = shared.engine.session
        self.pace = Pace(shared.limits, session.sample_rate_hz)
        self.inbox = Inbox(session.frame_samples, shared.limits.backlog_frames)
        self.samples_to_skip = protocol.skip_frames * session.frame_samples
        self.seat: Seat | None = None
        self.row = -1
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[SessionEnded] = self._loop.create_future()
        self._greeted = asyncio.Event()
        self._outbox: asyncio.Queue[bytes | str] = asyncio.Queue(shared.limits.outgoing)
        self._commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_COMMANDS)

    def end(self, ended: SessionEnded) -> None:
        """Ends the session; the first reason counts."""
        if not self._over.done():
            self._over.set_result(ended)

    async def run(self) -> Ending:
        """Serves the client until its session ends; returns why."""
        parts = (self._receive, self._send, self._carry_out, self._hold_row)
        tasks = [self._loop.create_task(self._guarded(part())) for part in parts]
        try:
            ended = await self._over
            if ended.ending is endings.STOPPING and self.seat is not None and self.shared.store is not None:
                ended = await self._saved_at_stop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.shared.metrics.session_ended(ended.ending, self.inbox.dropped_frames)
        await self._say_goodbye(ended)
        return ended.ending

    async def _saved_at_stop(self) -> SessionEnded:
        """Saves the memory before the server stops; says so where it could not."""
        try:
            await self._save()
        except Exception:
            logger.exception("A memory could not be saved at the stop.")
            return SessionEnded(endings.STOPPING, "The memory could not be saved.")
        return SessionEnded(endings.STOPPING, "The memory is saved.")

    async def _guarded(self, part: Coroutine[Any, Any, None]) -> None:
        try:
            await part
        except SessionEnded as ended:
            self.end(ended)
        except Exception:
            logger.exception("A session failed.")
            self.end(SessionEnded(endings.SERVER_ERROR))

    async def _say_goodbye(self, ended: SessionEnded) -> None:
        """Sends the reason and closes; a client that does not read is cut off by the server."""
        if ended.ending is endings.LOST:
            return
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(_GOODBYE_SEC):
                if ended.ending is not endings.LEFT:
                    for message in self.protocol.ended(ended.ending, str(ended)):
                        await self._send_one(message)
                await self.socket.close(code=ended.ending.close_code, message=ended.ending.text.encode())

    async def _receive(self) -> None:
        async for message in self.socket:
            self.pace.on_message()
            if message.type is WSMsgType.BINARY:
                self._hear(message.data)
            elif message.type is WSMsgType.TEXT:
                self._take_command(message.data)
            elif message.type is WSMsgType.ERROR:
                raise _ended_by(message.data)
        raise SessionEnded(endings.LEFT if self.socket.close_code in _CLOSED_BY_CLIENT else endings.LOST)

    def _hear(self, message: bytes) -> None:
        """Audio to the engine; without a row it is decoded, since an Ogg stream goes on, and dropped."""
        samples = self.protocol.audio(message)
        self.pace.on_audio(len(samples))
        if self.seat is not None:
            skipped = min(self.samples_to_skip, len(samples))
            self.samples_to_skip -= skipped
            self.shared.engine.hear(self.seat, samples[skipped:])

    def _take_command(self, text: str) -> None:
        command = self.protocol.command(text)
        if command["type"] == "hello":
            self._greeted.set()
            return
        if self._commands.full():
            raise SessionEnded(endings.FLOOD, f"At most {_COMMANDS} commands may wait.")
        self._commands.put_nowait(command)

    async def _send(self) -> None:
        try:
            while True:
                message = await self._outbox.get()
                async with asyncio.timeout(self.shared.limits.unread_sec):
                    await self._send_one(message)
        except ConnectionError as error:
            raise SessionEnded(endings.LOST) from error
        except TimeoutError as error:
            raise SessionEnded(endings.UNREAD) from error

    async def _send_one(self, message: bytes | str) -> None:
        await (self.socket.send_bytes(message) if isinstance(message, bytes) else self.socket.send_str(message))

    def post(self, messages: list[bytes | str]) -> None:
        """Sends messages when the client reads them."""
        for message in messages:
            if self._outbox.full():
                self.end(SessionEnded(endings.UNREAD))
                return
            self._outbox.put_nowait(message)

    async def _hold_row(self) -> None:
        """Waits for a row, and holds it until the session ends."""
        if self.protocol.has_hello:
            try:
                await asyncio.wait_for(self._greeted.wait(), self.shared.limits.hello_sec)
            except TimeoutError as error:
                raise SessionEnded(endings.LATE_HELLO) from error
        async with self.shared.rows.row(lambda place: self.post(self.protocol.waiting(place))) as row:
            seat = Seat(self.inbox, self._deliver, self.protocol.wants_memory_reports)
            try:
                await asyncio.wrap_future(self.shared.engine.sit(row, seat))
                self.pace.begin()
                self.row, self.seat = row, seat
                self.post(self.protocol.ready())
                await self._watch()
            finally:
                self.seat = None
                await asyncio.wrap_future(self.shared.engine.stand_up(row))

    async def _watch(self) -> None:
        """Checks the pace until the time is over; a server that was too busy to look does not blame its client."""
        now_sec = time.monotonic()
        end_sec = now_sec + self.shared.limits.session_sec
        while now_sec < end_sec:
            await asyncio.sleep(_WATCH_SEC)
            before_sec, now_sec = now_sec, time.monotonic()
            self.pace.excuse(now_sec - before_sec - _WATCH_SEC)
            self.pace.check()
        raise SessionEnded(endings.EXPIRED)

    def _deliver(self, item: Answer | MemoryReport | SessionEnded) -> None:
        """Called from the engine's thread."""
        self._loop.call_soon_threadsafe(self._on_item, item)

    def _on_item(self, item: Answer | MemoryReport | SessionEnded) -> None:
        try:
            self._pass_on(item)
        except Exception:
            logger.exception("An answer could not be written.")
            self.end(SessionEnded(endings.SERVER_ERROR))

    def _pass_on(self, item: Answer | MemoryReport | SessionEnded) -> None:
        if isinstance(item, SessionEnded):
            self.end(item)
        elif isinstance(item, Answer):
            self.post(self.protocol.answer(item))
        elif isinstance(self.protocol, PageProtocol):
            self.post(self.protocol.memory(item))

    async def _carry_out(self) -> None:
        """Commands one after the other; what cannot be done is said, and the session goes on."""
        while True:
            command = await self._commands.get()
            try:
                content = await self._done(command)
                self.post([PageProtocol.event(command["type"], **content)])
            except (ValueError, OSError) as error:
                logger.info("Command %s: %s", command["type"], error)
                text = str(error) if isinstance(error, ValueError) else "The server cannot read or write the memory."
                self.post([PageProtocol.event("refused", command=command["type"], text=text)])

    async def _done(self, command: dict[str, Any]) -> dict[str, Any]:
        """What the client learns of a command that was carried out."""
        kind = command["type"]
        if kind in ("list", "delete"):
            if kind == "delete":
                self._store.delete(self.owner, command["id"])
            return {"memories": self._store.entries(self.owner)}
        if self.seat is None:
            raise ValueError("There is no row yet: wait for your turn.")
        if kind == "save":
            return {"id": await self._save(), "memories": self._store.entries(self.owner)}
        if kind == "load":
            path = self._store.path_of(self.owner, command["id"])
            await self._call(lambda session: _restore(session, path, self.row))
        elif kind == "forget":
            await self._call(lambda session: session.reset(self.row))
        else:
            await self._call(lambda session: session.set_memory_on(self.row, command["on"]))
        return {name: value for name, value in command.items() if name != "type"}

    @property
    def _store(self) -> MemoryStore:
        if self.shared.store is None:
            raise ValueError("This server saves no memories: it was started without --memories.")
        return self.shared.store

    async def _save(self) -> str:
        store, row = self._store, self.row
        return await self._call(
            lambda session: store.save(self.owner, lambda path: session.save(path, row=row, memory_only=True))
        )

    async def _call(self, function: Callable[[Any], Any]) -> Any:
        return await asyncio.wrap_future(self.shared.engine.call(function))


def _restore(session: Any, path: Path, row: int) -> None:
    """Restores a row, whose memory then answers, as in a fresh one.

    Raises:
        ValueError: a file that does not fit, without its path.
    """
    try:
        session.restore(path, row=row)
        session.set_memory_on(row, True)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), "The saved memory")) from error


def _ended_by(error: object) -> SessionEnded:
    """What a broken WebSocket means."""
    code = error.code if isinstance(error, WebSocketError) else WSCloseCode.ABNORMAL_CLOSURE
    if code == WSCloseCode.MESSAGE_TOO_BIG:
        return SessionEnded(endings.TOO_LARGE)
    return SessionEnded(endings.MALFORMED if isinstance(error, WebSocketError) else endings.LOST)
