"""The server's doors: pages, tokens, origins, health, metrics, bounds on connections, and a stop that saves."""

import asyncio
import re
import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hf_moshi_ttt.live import server as server_module
from hf_moshi_ttt.live.gate import Gate, tls_context
from hf_moshi_ttt.live.limits import Limits
from hf_moshi_ttt.live.server import PAGE, Address, LiveServer

from ..fixtures.certificate import CERTIFICATE, KEY
from ..fixtures.live_server import page_client, serving, url
from ..fixtures.live_stand_in import StandInSession

FOLDER = Path(server_module.__file__).parent / "page"
TOKEN, OTHER = "first-token-0123456789", "other-token-0123456789"


async def get(server: Any, path: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(url(server, path), headers=headers) as response:
        assert response.headers["Server"] == "hf-moshi-ttt"
        return response.status, await response.text()


async def upgrade_status(server: Any, path: str, **options: Any) -> int:
    """What HTTP answers to a WebSocket that is refused; 101 where it is not."""
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(url(server, path), **options):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


def test_the_page_and_nothing_else_is_served() -> None:
    async def scene() -> None:
        async with serving() as server:
            for path, (_, content_type) in PAGE.items():
                async with aiohttp.ClientSession() as http, http.get(url(server, path)) as response:
                    assert response.status == 200 and response.content_type == content_type
                    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
            for path in ("/index.html", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/page/index.html"):
                assert (await get(server, path))[0] == 404

    asyncio.run(scene())


def test_the_page_has_what_its_scripts_use_and_nothing_inline() -> None:
    """The content policy forbids inline scripts and styles, so one of them would be dead."""
    files = {name: (FOLDER / name).read_text() for name, _ in PAGE.values()}
    html = files["index.html"]
    ids = set(re.findall(r'id="([\w-]+)"', html))
    assert set(re.findall(r'\$\("([\w-]+)"\)', files["app.js"])) <= ids
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([\w-]+)"', html)) <= ids
    assert not re.search(r'<script>|<style|style="|onclick="|https?://', html)
    named = re.findall(r'(?:src|href)="([\w.]+)"|from "\./([\w.]+)"|addModule\("([\w.]+)"\)', "".join(files.values()))
    assert {name for group in named for name in group if name} == files.keys() - {"index.html"}


def test_tokens_are_asked_for_wherever_something_is_to_be_had() -> None:
    async def scene() -> None:
        async with serving(tokens=(TOKEN,)) as server:
            for path in ("/api/access", "/metrics"):
                assert (await get(server, path))[0] == 401
                status, text = await get(server, path, Authorization=f"Bearer {TOKEN}")
                assert status == 200, text
            assert [(await get(server, path))[0] for path in ("/", "/health")] == [200, 200]
            for path in ("/api/live", "/api/chat"):
                assert await upgrade_status(server, path) == 401
                assert await upgrade_status(server, path, headers={"Authorization": f"Bearer {OTHER}"}) == 401
                assert await upgrade_status(server, path, protocols=("moshi-ttt", f"token.{TOKEN}")) == 101
            with_password = url(server, "/api/chat").replace("://", f"://any:{TOKEN}@")  # as Kyutai's --url can have it
            async with aiohttp.ClientSession() as http, http.ws_connect(with_password) as socket:
                assert (await socket.receive_bytes(timeout=5)) == b"\x00"

    asyncio.run(scene())


def test_pages_and_names_of_others_are_refused_without_a_token_too() -> None:
    async def scene() -> None:
        async with serving() as server:
            for path in ("/api/live", "/api/chat"):
                assert await upgrade_status(server, path, headers={"Origin": "http://evil.org"}) == 403
                assert await upgrade_status(server, path, headers={"Host": "evil.org"}) == 421
                assert await upgrade_status(server, path, headers={"Origin": url(server, "")}) == 101
            assert await get(server, "/api/live") == (426, "This address speaks WebSocket.")

    asyncio.run(scene())


def test_health_and_metrics_tell_sessions_and_queue() -> None:
    async def scene() -> None:
        async with serving(StandInSession(1)) as server, page_client(server) as a, page_client(server) as b:
            await a.event("ready")
            assert (await b.event("queue"))["place"] == 1
            status, text = await get(server, "/health")
            assert (status, text) == (200, '{"status": "ok", "sessions": 1, "rows": 1, "queue": 1}')
            metrics = (await get(server, "/metrics"))[1]
            assert "moshi_ttt_sessions 1.0" in metrics and "moshi_ttt_queue 1.0" in metrics
            assert server.shared.engine.stop(5)
            assert (await get(server, "/health"))[0] == 503

    asyncio.run(scene())


def test_a_stop_saves_ends_sessions_and_the_waiting_and_is_quick(tmp_path: Path) -> None:
    async def scene() -> None:
        session = StandInSession(1)
        async with serving(session, memories=tmp_path) as server, page_client(server) as a, page_client(server) as b:
            await a.event("ready")
            await a.say(0.1, 0.2, 0.3)
            await a.event("frame", 3)
            await b.event("queue")
            start = time.monotonic()
            await server.stop()
            assert time.monotonic() - start < 5
            assert (await a.end(), await b.end()) == ("stopping", "stopping")
            assert a.of("end")[0]["text"] == "The server is stopping. The memory is saved."
        assert [path.read_text() for path in tmp_path.rglob("*.safetensors")] == ['{"memory": 3, "memory_only": true}']

    asyncio.run(scene())


def test_a_stop_says_where_a_memory_could_not_be_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        session, limits = StandInSession(1), Limits(memory_bytes=3)
        async with serving(session, limits, tmp_path) as server, page_client(server) as client:
            await client.event("ready")
            await server.stop()
            assert await client.end() == "stopping"
            assert client.of("end")[0]["text"] == "The server is stopping. The memory could not be saved."

    asyncio.run(scene())
    assert "bytes, but 3 are allowed" in caplog.text and list(tmp_path.rglob("*.safetensors")) == []


def test_a_stop_leaves_an_endless_step_behind(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        session = StandInSession(1)
        async with serving(session) as server, page_client(server) as client:
            await client.event("ready")
            session.step_sec = 3.0
            await client.say(0.1)
            await asyncio.sleep(0.2)
            start = time.monotonic()
            await server.stop(within_sec=0.8)
            assert time.monotonic() - start < 2.5
            session.step_sec = 0

    asyncio.run(scene())
    assert "is left behind" in caplog.text


def test_connections_are_bounded_and_silent_ones_cut_off() -> None:
    async def connect(server: Any, sent: bytes) -> bytes:
        """What a connection reads until it is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionError:
            return b""
        finally:
            writer.close()

    async def scene() -> None:
        async with serving(limits=Limits(connections=3, hello_sec=2.0)) as server:
            strangers = [
                asyncio.create_task(connect(server, part)) for part in (b"", b"GET", b"GET / HTTP/1.1\r\nA: b")
            ]
            await asyncio.sleep(0.2)
            start = time.monotonic()
            assert await connect(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n") == b""
            assert time.monotonic() - start < 1
            assert await asyncio.gather(*strangers) == [b"", b"", b""]
            assert (await get(server, "/health"))[0] == 200

    asyncio.run(scene())


def test_tls_by_certificate_files(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(KEY)
    trusted = ssl.create_default_context(cadata=CERTIFICATE)

    async def scene() -> None:
        server = LiveServer(StandInSession(1), Gate("127.0.0.1", []))  # type: ignore[arg-type]
        await server.start(Address(port=0, tls=tls_context(tmp_path / "cert.pem", tmp_path / "key.pem")))
        base = f"https://localhost:{server.port}"
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{base}/health", ssl=trusted) as response:
                assert response.status == 200
            async with http.ws_connect(f"{base}/api/chat", ssl=trusted) as channel:
                assert await channel.receive_bytes(timeout=5) == b"\x00"
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await http.get(f"{base}/health")
        await server.stop()

    asyncio.run(scene())


def test_an_address_in_use_is_an_error() -> None:
    async def scene() -> None:
        async with serving() as first, serving() as second:
            await second.stop()
            with pytest.raises(OSError, match=str(first.port)):
                await second.start(Address(port=first.port))

    asyncio.run(scene())
