"""A client's whole session, in both protocols; every way of misbehaving ends its own session, and no other."""

import asyncio
import importlib
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import numpy as np
import pytest
import sphn

from hf_moshi_ttt.live.connection import Connection
from hf_moshi_ttt.live.endings import (
    UNREAD,
)  # fmt: skip
from hf_moshi_ttt.live.limits import Limits
from hf_moshi_ttt.live.page_wire import PageProtocol

from ..fixtures.bad_clients import BAD_CLIENTS, BadClient
from ..fixtures.live_server import FRAME_SEC, PageClient, page_client, serving, url
from ..fixtures.live_stand_in import BROKEN, FRAME_SAMPLES, StandInSession

QUICK = Limits(
    queue=64, hello_sec=1.0, window_sec=2.0, ahead_sec=1.5, heartbeat_sec=1.5, messages_per_sec=60, unread_sec=1.0
)
TOKEN, OTHER = "first-token-0123456789", "other-token-0123456789"


def tone(frames: int) -> np.ndarray:
    samples = np.arange(frames * FRAME_SAMPLES) / 24_000
    return (0.3 * np.sin(2 * np.pi * 300 * samples)).astype(np.float32).reshape(frames, FRAME_SAMPLES)


def test_the_page_hears_its_echo_and_reads_text_and_memory() -> None:
    async def scene() -> None:
        async with serving() as server, page_client(server) as client:
            await client.event("ready")
            await client.say(0.1, 0.2, 0.3, 0.4)
            last = await client.event("frame", 4)
            assert (last["number"], last["text"], last["dropped_frames"]) == (4, " word4", 0)
            assert last["latency_ms"] > 0
            assert [round(float(sound[0]), 3) for sound in client.sounds] == [0.2, 0.3, 0.4]
            assert (await client.event("memory"))["layers"][0]["norm"] == 1

    asyncio.run(scene())


def test_kyutais_protocol_by_a_client_from_its_description() -> None:
    """Handshake, Ogg Opus both ways, text; the first frame is not heard by the model, and the next gives no sound."""

    async def scene() -> None:
        session = StandInSession(1)
        writer, reader, sound, text = sphn.OpusStreamWriter(24_000), sphn.OpusStreamReader(24_000), [], ""
        async with serving(session) as server, aiohttp.ClientSession() as http:
            async with http.ws_connect(url(server, "/api/chat")) as channel:
                assert await channel.receive_bytes(timeout=5) == b"\x00"
                for frame in tone(12):
                    await channel.send_bytes(b"\x01" + writer.append_pcm(frame))
                while len(sound) < 10 or text.count("word") < 2:
                    message = await channel.receive_bytes(timeout=5)
                    if message[0] == 1:
                        sound.append(reader.append_bytes(message[1:]))
                    elif message[0] == 2:
                        text += message[1:].decode()
                await asyncio.sleep(0.3)  # all that was sent is heard
            assert session.frames == [11] and text == " word4 word8"
            assert all(samples.shape == (FRAME_SAMPLES,) for samples in sound)
            spectrum = np.abs(np.fft.rfft(np.concatenate(sound[3:])))
            assert abs(spectrum.argmax() * 24_000 / (7 * FRAME_SAMPLES) - 300) < 5

    asyncio.run(scene())


class FakeStream:
    """A sound card without sound."""

    def __init__(self, callback: Any, **_: Any) -> None:
        self.callback = callback

    def __enter__(self) -> "FakeStream":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_kyutais_own_client_talks_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their `Connection`, with a sound card of the test in place of PortAudio."""
    pytest.importorskip("moshi")
    sounddevice = ModuleType("sounddevice")
    sounddevice.InputStream = sounddevice.OutputStream = FakeStream  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", sounddevice)
    monkeypatch.delitem(sys.modules, "moshi.client", raising=False)
    client = importlib.import_module("moshi.client")
    written: list[str] = []

    class Printer:
        def print_token(self, token: str) -> None:
            written.append(token)

        def log(self, level: str, text: str) -> None:
            if (level, text) != ("warning", "unknown message kind 0"):  # their own server's handshake gives it too
                written.append(f"{level}: {text}")

        def print_pending(self) -> None: ...
        def print_lag(self) -> None: ...

    async def scene() -> None:
        async with (
            serving(StandInSession(1)) as server,
            aiohttp.ClientSession() as http,
            http.ws_connect(url(server, "/api/chat")) as channel,
        ):
            theirs = client.Connection(Printer(), channel, asyncio.get_running_loop())
            running = asyncio.create_task(theirs.run())
            await asyncio.sleep(0.1)
            for frame in tone(12):
                theirs._in_stream.callback(frame[:, None], FRAME_SAMPLES, None, None)
            heard = [await asyncio.to_thread(theirs._output_queue.get, True, 5) for _ in range(10)]
            assert all(samples.shape == (FRAME_SAMPLES,) for samples in heard) and np.abs(heard[5]).max() > 0.2
            await channel.close()
            await running

    asyncio.run(scene())
    assert written == [" word4", " word8"]


async def talk_well(client: PageClient, is_over: asyncio.Event) -> None:
    """A frame every 80 ms, each with a value of its own; all come back, in order."""
    values: list[float] = []
    now = asyncio.get_running_loop().time
    start = now()
    while not is_over.is_set():
        values.append(round(0.01 * (1 + len(values) % 50), 2))
        await client.say(values[-1])
        await asyncio.sleep(max(0.0, start + len(values) * FRAME_SEC - now()))
    last = await client.event("frame", len(values))
    assert [round(float(sound[0]), 2) for sound in client.sounds] == values[1:]
    assert last["dropped_frames"] == 0 and client.of("end") == []


async def until_ended(bad: BadClient, base: str) -> str:
    try:
        return await asyncio.wait_for(bad.run(base), 15)
    except TimeoutError:
        return "was not ended"


def test_bad_clients_end_alone_with_the_reason_while_a_good_one_keeps_every_frame() -> None:
    async def scene() -> dict[str, str]:
        async with serving(StandInSession(32), QUICK) as server, page_client(server, autoping=True) as good:
            await good.event("ready")
            base, is_over = url(server, ""), asyncio.Event()
            talking = asyncio.create_task(talk_well(good, is_over))
            ended = await asyncio.gather(*(until_ended(bad, base) for bad in BAD_CLIENTS.values()))
            is_over.set()
            await talking
            assert server.shared.rows.num_taken == 1 and len(server.connections) == 1
            text = server.shared.metrics.text().decode()
            for reason in [
                "lost",
                "silent",
                "slow",
                "fast",
                "flood",
                "malformed",
                "corrupt",
                "too_large",
                "late_hello",
                "unread",
            ]:
                assert f'moshi_ttt_sessions_ended_total{{reason="{reason}"}} 0.0' not in text, reason
            return dict(zip(BAD_CLIENTS, ended, strict=True))

    ended = asyncio.run(scene())
    assert {name: code for name, code in ended.items() if code not in BAD_CLIENTS[name].endings} == {}


def test_a_model_error_ends_one_session_and_tells_nothing_of_the_server() -> None:
    async def scene() -> None:
        async with serving() as server, page_client(server) as a, page_client(server) as b:
            await a.event("ready")
            await b.event("ready")
            await a.say(BROKEN)
            assert await a.end() == "model_error"
            assert a.of("end")[0]["text"] == "The model failed in this session. Others go on; connect again."
            await b.say(0.1, 0.2)
            await b.event("frame", 2)
            async with page_client(server) as c:
                await c.event("ready")

    asyncio.run(scene())


def test_memories_are_saved_loaded_forgotten_and_belong_to_the_token(tmp_path: Path) -> None:
    async def scene() -> None:
        session = StandInSession(2)
        async with (
            serving(session, memories=tmp_path, tokens=(TOKEN, OTHER)) as server,
            page_client(server, TOKEN) as a,
            page_client(server, OTHER) as b,
        ):
            await a.event("ready")
            await b.event("ready")
            await a.say(0.1, 0.2, 0.3)
            await a.event("frame", 3)
            await a.command("save")
            saved = await a.event("save")
            assert [entry["id"] for entry in saved["memories"]] == [saved["id"]]
            await a.command("forget")
            await a.event("forget")
            row = 0 if session.memory[0] == 0 else 1
            assert session.memory[row] == 0
            await a.command("load", id=saved["id"])
            await a.event("load")
            assert 3 in session.memory
            await a.command("memory_on", on=False)
            assert (await a.event("memory_on"))["on"] is False and sorted(session.is_memory_on) == [False, True]
            await a.command("load", id=saved["id"])
            await a.event("load", 2)
            assert session.is_memory_on == [True, True]
            attempts = [("load", saved["id"]), ("delete", saved["id"]), ("load", "../x")]
            for number, (kind, name) in enumerate(attempts, 1):
                await b.command(kind, id=name)
                refused = await b.event("refused", number)
                assert (refused["command"], refused["text"]) == (kind, "There is no saved memory of this id.")
            await b.command("list")
            assert (await b.event("list"))["memories"] == []
            next(tmp_path.rglob("*.safetensors")).write_text("{}")
            await a.command("load", id=saved["id"])
            assert (await a.event("refused"))["text"] == "The saved memory is no memory."
            await a.command("delete", id=saved["id"])
            assert (await a.event("delete"))["memories"] == []

    asyncio.run(scene())


def test_what_cannot_be_done_is_refused_and_the_session_goes_on() -> None:
    async def scene() -> None:
        async with serving(StandInSession(1)) as server, page_client(server) as a, page_client(server) as b:
            await a.event("ready")
            await b.event("queue")
            await a.command("save")
            text = "This server saves no memories: it was started without --memories."
            assert (await a.event("refused"))["text"] == text
            await b.command("forget")
            assert (await b.event("refused"))["text"] == "There is no row yet: wait for your turn."
            await a.say(0.1)
            await a.event("frame")
            await a.socket.close()
            await b.event("ready")

    asyncio.run(scene())


def test_the_time_of_a_session_is_over_and_the_queue_is_bounded() -> None:
    async def scene() -> None:
        limits = Limits(session_sec=1.0, queue=1)
        async with (
            serving(StandInSession(1), limits) as server,
            page_client(server) as a,
            page_client(server) as b,
        ):
            await b.event("queue")
            async with page_client(server) as c:
                assert await c.end() == "full"
            assert await a.end() == "expired"
            await b.event("ready")

    asyncio.run(scene())


class BlockedSocket:
    """A WebSocket whose client reads nothing."""

    close_code = None

    def __init__(self) -> None:
        self.closed_with = 0

    def __aiter__(self) -> "BlockedSocket":
        return self

    async def __anext__(self) -> Any:
        await asyncio.Event().wait()

    async def send_str(self, _: str) -> None:
        await asyncio.Event().wait()

    send_bytes = send_str

    async def close(self, code: int, message: bytes) -> None:
        self.closed_with = code


@pytest.mark.parametrize("limits", [Limits(outgoing=5), Limits(unread_sec=0.3)], ids=["number", "time"])
def test_a_client_that_reads_nothing_is_ended_and_cut_off(limits: Limits) -> None:
    async def scene() -> None:
        async with serving(limits=limits) as server:
            connection = Connection(server.shared, BlockedSocket(), PageProtocol(24_000), "me")  # type: ignore[arg-type]
            running = asyncio.create_task(connection.run())
            await asyncio.sleep(0.05)
            connection.post(["message"] * 7)
            assert await asyncio.wait_for(running, 5) is UNREAD

    asyncio.run(scene())


def test_no_thread_or_task_is_left() -> None:
    async def scene() -> int:
        async with serving() as server, page_client(server) as client:
            await client.event("ready")
            await client.socket.close()
        await asyncio.sleep(0)
        return len([task for task in asyncio.all_tasks() if "Connection" in repr(task)])

    assert asyncio.run(scene()) == 0
    assert [thread.name for thread in threading.enumerate() if thread.name == "engine"] == []
