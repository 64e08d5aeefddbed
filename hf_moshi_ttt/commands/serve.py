"""Talk to a model: a server with a page for browsers, and Kyutai's protocol for their clients.

hf-moshi-ttt serve runs/mine --memories memories
hf-moshi-ttt serve runs/mine --host 0.0.0.0 --cert cert.pem --key key.pem

Then open the link that it prints. It listens on this machine alone unless --host says otherwise, and then asks for a
token. SIGTERM saves the memories of running sessions, where --memories is given, and ends the server within 5 seconds.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .model_folder import model_folder
from .parser import SEED, add_device, device_of, number, whole, wrong_settings

if TYPE_CHECKING:
    from ..live.session import MoshiTTTSession


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("model", help="name or path of a TTT-Moshi checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need a token")
    parser.add_argument("--port", type=whole(0, 65535), default=8998, help="port, 0 for any (%(default)s)")
    parser.add_argument("--rows", type=whole(1), default=2, help="sessions at once, stepped together (%(default)s)")
    parser.add_argument("--queue", type=whole(0), default=16, help="clients that may wait for one (%(default)s)")
    parser.add_argument(
        "--session-min", type=number(0, is_open=True), default=60.0, help="the longest session (%(default)s)"
    )
    parser.add_argument("--memories", type=Path, help="folder for saved memories; none are saved without it")
    parser.add_argument(
        "--token", action="append", default=[], help="who may come in, again for more; made and printed where needed"
    )
    parser.add_argument("--origin", action="append", default=[], help="another page that may use it, https://name:port")
    parser.add_argument("--cert", type=Path, help="certificate for https, in PEM")
    parser.add_argument("--key", type=Path, help="its key")
    parser.add_argument("--temperature", type=number(0), help="of the audio codes (the model's own)")
    parser.add_argument("--text-temperature", type=number(0), help="of the text (the model's own)")
    parser.add_argument("--seed", type=SEED, help="of all draws; others in every run without it")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Loads the model and serves until SIGTERM or Ctrl-C."""
    import asyncio
    import logging

    from ..live.gate import Gate, tls_context, tokens_for
    from ..live.limits import Limits
    from ..live.server import Address, LiveServer, run_until_stopped

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    with wrong_settings():
        limits = Limits(queue=arguments.queue, session_sec=60 * arguments.session_min)
        tokens, is_made = tokens_for(arguments.host, arguments.token)
        gate = Gate(arguments.host, tokens, arguments.origin)
        tls = tls_context(arguments.cert, arguments.key)
    server = LiveServer(open_session(arguments), gate, limits, arguments.memories, arguments.seed)
    address = Address(arguments.host, arguments.port, tls)

    def announce() -> None:
        print(links(address, server.port, tokens, is_made), flush=True)

    asyncio.run(run_until_stopped(server, address, announce))


def open_session(arguments: argparse.Namespace) -> "MoshiTTTSession":
    """The model's rows."""
    from ..live.session import MoshiTTTSession
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..processing_moshi_ttt import MoshiTTTProcessor
    from ..streaming.generation_moshi_ttt import Sampling

    device = device_of(arguments.device)
    path = model_folder(arguments.model)
    model: Any = MoshiTTTForConditionalGeneration.from_pretrained(path).eval().to(device)
    given = {"temperature": arguments.temperature, "text_temperature": arguments.text_temperature}
    with wrong_settings():
        own = Sampling.from_generation_config(model.generation_config)
        sampling = replace(own, **{name: value for name, value in given.items() if value is not None})
    processor = MoshiTTTProcessor.from_pretrained(path)
    processor.codec.to(device)
    session = MoshiTTTSession(model, processor, batch_size=arguments.rows, sampling=sampling)
    if arguments.memories is not None:
        _ = session.identity  # hashes of all weights: now, not while the first one who saves waits
    return session


def links(address: Any, port: int, tokens: list[str], is_made: bool) -> str:
    """What to open, and what a browser will not do there."""
    from ..live.gate import is_loopback

    scheme = "http" if address.tls is None else "https"
    name = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"{scheme}://{name}:{port}/{f'#{tokens[0]}' if is_made else ''}"]
    if is_made:
        lines.append("The link holds the token that was made for this run: whoever has it comes in.")
    if address.tls is None and not is_loopback(address.host):
        lines.append(
            "Browsers give the microphone over https or on localhost alone: use --cert and --key, or an ssh tunnel."
        )
    return "\n".join(lines)
