"""The server of a tiny model: it prints its link, talks, and ends at SIGTERM with its memories saved."""

import argparse
import asyncio
import os
import re
import signal
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_moshi_ttt.commands.console import main, parse
from hf_moshi_ttt.commands.serve import links, open_session
from hf_moshi_ttt.live.server import Address

from ..fixtures.live_server import page_client


@pytest.fixture
def model(make_model: Callable[..., Any], codec_path: str, tmp_path: Path) -> str:
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


async def visit(link: str) -> None:
    """Talks for some frames, and stays until the server ends it."""
    server = SimpleNamespace(port=int(re.findall(r":(\d+)/", link)[0]))
    async with page_client(server) as client:  # type: ignore[arg-type]
        await client.event("ready")
        await client.say(*[0.1] * 4)
        await client.event("frame", 4)
        assert (await client.event("memory"))["layers"][0]["num_bytes"] > 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert await client.end() == "stopping"


def test_a_model_is_served_until_sigterm(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors: list[BaseException] = []

    def guest() -> None:
        try:
            deadline = time.monotonic() + 60
            out = ""
            while "http://" not in out:
                assert time.monotonic() < deadline, "no link was printed"
                time.sleep(0.05)
                out += capsys.readouterr().out
            asyncio.run(visit(out))
        except BaseException as error:
            errors.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    visitor = threading.Thread(target=guest)
    visitor.start()
    memories = tmp_path / "memories"
    assert main(["serve", model, "--port", "0", "--memories", str(memories), "--device", "cpu", "--debug"]) == 0
    visitor.join(10)
    assert errors == [] and len([*memories.rglob("*.safetensors")]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--token", "short"], "A token of 5 characters: give 16 to 128 of A-Z, a-z, 0-9, _ and -."),
        (["--cert", "cert.pem"], "TLS needs both --cert and --key."),
    ],
)
def test_wrong_settings_end_before_a_model_is_loaded(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "no/model", *words]) == 2
    assert capsys.readouterr().err.endswith(f"hf-moshi-ttt serve: error: {message}\n")


def test_links() -> None:
    assert links(Address(), 7, [], False) == "http://127.0.0.1:7/"
    assert links(Address("::1"), 7, ["mine"], False) == "http://[::1]:7/"
    made = links(Address("0.0.0.0"), 7, ["abc"], True).splitlines()
    assert made[0] == "http://0.0.0.0:7/#abc" and len(made) == 3 and "--cert" in made[2]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert links(Address("0.0.0.0", tls=tls), 7, ["abc"], True).startswith("https://0.0.0.0:7/#abc\nThe link holds")


def test_draws_are_the_models_unless_given(model: str) -> None:
    def sampling(*words: str) -> Any:
        arguments: argparse.Namespace = parse("serve", [model, "--device", "cpu", *words])
        return open_session(arguments).sampling

    assert (sampling().temperature, sampling().text_temperature) == (0.8, 0.7)
    assert sampling("--temperature", "0").temperature == 0
    assert sampling("--temperature", "0").text_temperature == 0.7
