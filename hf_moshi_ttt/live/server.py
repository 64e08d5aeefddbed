"""The live server: sessions over WebSockets, one page, `/health` and `/metrics`.

`/api/chat` speaks Kyutai's protocol, `/api/live` the page's. No request's path reaches the file system: the page's
files are read once, by the names written here.
"""

import asyncio
import importlib.resources
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from aiohttp import web
from aiohttp.typedefs import Handler

from .connection import Connection, Shared
from .endings import STOPPING, SessionEnded
from .engine import Engine
from .gate import SUBPROTOCOL, Gate, Refused
from .limits import Limits
from .memories import MemoryStore
from .metrics import CONTENT_TYPE, LiveMetrics
from .page_wire import PageProtocol
from .rows import Rows
from .wire import ChatProtocol

if TYPE_CHECKING:
    from .session import MoshiTTTSession

PAGE = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/app.js": ("app.js", "text/javascript"),
    "/sound.js": ("sound.js", "text/javascript"),
    "/worklets.js": ("worklets.js", "text/javascript"),
    "/plots.js": ("plots.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Server": "hf-moshi-ttt",
}
_SEND_BUFFER_BYTES = 65536
_CUT_OFF_SEC = 0.2  # for handlers that a stop cuts off
_ALIVE_SEC = 10.0  # without a tick; the longest step that is not taken for a standstill
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Args:
        host, port: port 0 takes a free one.
        tls: from `gate.tls_context`, or None.
    """

    host: str = "127.0.0.1"
    port: int = 8998
    tls: ssl.SSLContext | None = None


class LiveServer:
    """Serves a session's rows.

    Args:
        session: its rows are reset whenever a client takes one.
        gate: who may come in.
        limits: what a client may cost.
        memories: folder of saved memories, or None for none.
        seed: of all clients' draws, or None for others in every run.
    """

    def __init__(
        self,
        session: "MoshiTTTSession",
        gate: Gate,
        limits: Limits | None = None,
        memories: Path | None = None,
        seed: int | None = None,
    ) -> None:
        limits = limits or Limits()
        metrics = LiveMetrics()
        store = None if memories is None else MemoryStore(memories, limits)
        rows = Rows(session.num_rows, limits.queue)
        self.gate, self.limits = gate, limits
        self.shared = Shared(Engine(session, metrics, seed), rows, metrics, limits, store)
        self.connections: set[Connection] = set()
        self.port = 0
        metrics.gauge("sessions", "Sessions with a row.", lambda: rows.num_taken)
        metrics.gauge("queue", "Clients that wait for a row.", lambda: rows.num_waiting)
        metrics.gauge("memory_bytes", "Saved memories on disk.", lambda: store.num_bytes() if store else 0)
        self._app = web.Application(middlewares=[self._check], client_max_size=limits.message_bytes)
        self._add_routes()
        self._strangers: set[object] = set()  # connections without a request so far
        self.is_stopping = False

    def _add_routes(self) -> None:
        self._app.on_response_prepare.append(_add_headers)
        router = self._app.router
        router.add_get("/api/chat", self._chat)
        router.add_get("/api/live", self._live)
        router.add_get("/api/access", self._access)
        router.add_get("/health", self._health)
        router.add_get("/metrics", self._metrics)
        folder = importlib.resources.files(__package__) / "page"
        for path, (name, content_type) in PAGE.items():
            text = (folder / name).read_text(encoding="utf-8")
            router.add_get(path, _page_handler(text, content_type))

    async def start(self, address: Address) -> None:
        """Warms the model up and listens.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=_CUT_OFF_SEC)
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, address.host, address.port, ssl=address.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.shared.engine.start()
        await asyncio.wrap_future(self.shared.engine.call(_warm_up))

    async def stop(self, within_sec: float = 4.0) -> None:
        """Lets sessions save, ends them, and stops listening.

        Args:
            within_sec: the most that it takes; then sessions are cut off and a step under way is left behind.
        """
        loop = asyncio.get_running_loop()
        self.is_stopping = True
        self._server.close()
        for connection in list(self.connections):
            connection.end(SessionEnded(STOPPING))
        deadline_sec = loop.time() + 0.7 * within_sec
        while self.connections and loop.time() < deadline_sec:
            await asyncio.sleep(0.02)
        if self.connections:
            logger.error("%d sessions did not end in time and are cut off.", len(self.connections))
        if not await asyncio.to_thread(self.shared.engine.stop, 0.15 * within_sec):
            logger.error("The engine is still in a step and is left behind.")
        await self._runner.cleanup()

    def _protocol(self) -> asyncio.BaseProtocol:
        """A connection's protocol: cut off beyond the bound, or when it sends no request in time."""
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self.limits.connections:
            return _CutOff()
        handler = server()
        self._strangers.add(handler)
        asyncio.get_running_loop().call_later(self.limits.hello_sec, self._cut_off_stranger, handler)
        return handler

    def _cut_off_stranger(self, handler: web.RequestHandler) -> None:
        if handler in self._strangers:
            self._strangers.discard(handler)
            if handler.transport is not None:
                handler.transport.abort()

    @web.middleware
    async def _check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._strangers.discard(request.protocol)
        try:
            self.gate.check_address(request.headers)
            return await handler(request)
        except Refused as refused:
            return web.Response(status=refused.status, text=str(refused))

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(
            request, ChatProtocol(self.shared.engine.session.sample_rate_hz, self.limits.unheard_bytes)
        )

    async def _live(self, request: web.Request) -> web.StreamResponse:
        return await self._talk(request, PageProtocol(self.shared.engine.session.sample_rate_hz))

    async def _talk(self, request: web.Request, protocol: ChatProtocol | PageProtocol) -> web.StreamResponse:
        owner = self.gate.owner(request.headers)
        if self.is_stopping:
            raise Refused(503, STOPPING.text)
        # Without compression: a small message that unpacks to a large one would pass the bound.
        channel = web.WebSocketResponse(
            max_msg_size=self.limits.message_bytes,
            heartbeat=self.limits.heartbeat_sec,
            timeout=0.5,
            protocols=[SUBPROTOCOL],
            compress=False,
        )
        if not channel.can_prepare(request).ok:
            raise Refused(426, "This address speaks WebSocket.")
        await channel.prepare(request)
        transport = request.transport
        _bound_send_buffer(transport)
        connection = Connection(self.shared, channel, protocol, owner)
        self.connections.add(connection)
        try:
            ending = await connection.run()
            logger.info("A session ended: %s.", ending.code)
        finally:
            self.connections.discard(connection)
            if transport is not None:
                transport.abort()  # goodbye has been said; a mere close would wait for a client that does not read
        return channel

    async def _access(self, request: web.Request) -> web.Response:
        """Whether a token is let in, since a browser hides why a WebSocket was refused."""
        self.gate.owner(request.headers)
        session = self.shared.engine.session
        rates = {"sample_rate_hz": session.sample_rate_hz, "frame_samples": session.frame_samples}
        return web.json_response({**rates, "saves_memories": self.shared.store is not None})

    async def _health(self, request: web.Request) -> web.Response:
        is_alive = self.shared.engine.is_alive(_ALIVE_SEC) and not self.is_stopping
        rows = self.shared.rows
        numbers = {"sessions": rows.num_taken, "rows": rows.num_rows, "queue": rows.num_waiting}
        status = "stopping" if self.is_stopping else "ok" if is_alive else "the engine stands still"
        return web.json_response({"status": status, **numbers}, status=200 if is_alive else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        self.gate.owner(request.headers)
        return web.Response(body=self.shared.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


async def run_until_stopped(server: LiveServer, address: Address, on_ready: Callable[[], None]) -> None:
    """Serves until SIGTERM or SIGINT, and then ends within 5 seconds.

    Args:
        on_ready: called when the server listens.

    Raises:
        OSError: the address cannot be listened on.
    """
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, is_over.set)
    await server.start(address)
    on_ready()
    await is_over.wait()
    logger.info("Stopping.")
    await server.stop()


class _CutOff(asyncio.Protocol):
    """A connection that is closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _bound_send_buffer(transport: asyncio.BaseTransport | None) -> None:
    """A client that does not read is found after some seconds of sound, not after the kernel's megabytes."""
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is not None:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)


def _page_handler(text: str, content_type: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type)

    return handler


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _warm_up(session: "MoshiTTTSession") -> None:
    """Steps every row, since first steps are slow; rows are reset when a client takes them."""
    for _ in range(3):
        session.step(np.zeros((session.num_rows, session.frame_samples), dtype=np.float32))
