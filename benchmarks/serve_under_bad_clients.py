"""The live server under misbehaving clients, while one good session talks: does it keep every frame?

    python benchmarks/serve_under_bad_clients.py [--seconds 120] [--clients 50] [--model MODEL]

The bad clients of `tests/fixtures/bad_clients.py` run in a process of their own, each in its own way (silent, slow,
bursting, malformed, half-open, vanishing, ...) and again as soon as the server ended it. The good one sends a frame
every 80 ms. Without `--model`, a stand-in echoes after 20 ms a step, so that the server is measured and not a model;
then every answer is compared with what was said. Printed are the endings by client, the good session's frames, times
and losses, and what the server holds at the end.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hf_moshi_ttt.live.limits import Limits  # noqa: E402
from tests.fixtures.bad_clients import BAD_CLIENTS  # noqa: E402
from tests.fixtures.live_server import FRAME_SEC, page_client, serving, url  # noqa: E402
from tests.fixtures.live_stand_in import StandInSession  # noqa: E402

LIMITS = Limits(queue=100)
LONGEST_SEC = 40


async def attack(base: str, seconds: float, clients: int) -> None:
    """Bad clients until the time is over; prints how often each ended with what."""
    deadline, found = time.monotonic() + seconds, Counter()

    async def misbehave(number: int) -> None:
        name = list(BAD_CLIENTS)[number % len(BAD_CLIENTS)]
        while time.monotonic() < deadline:
            try:
                found[name, await asyncio.wait_for(BAD_CLIENTS[name].run(base), LONGEST_SEC)] += 1
            except Exception as error:
                found[name, type(error).__name__] += 1
            await asyncio.sleep(0.5)

    await asyncio.gather(*(misbehave(number) for number in range(clients)))
    print(json.dumps([[name, ending, count] for (name, ending), count in sorted(found.items())]))


async def talk(server: Any, is_over: asyncio.Event, is_echo: bool) -> dict[str, Any]:
    """The good session; what came back of its frames."""
    async with page_client(server) as client:
        await client.event("ready", timeout_sec=60)
        values, start = [], time.monotonic()
        while not is_over.is_set():
            values.append(round(0.01 * (1 + len(values) % 50), 2))
            with contextlib.suppress(ConnectionError):  # then it was ended, which is printed
                await client.say(values[-1])
            await asyncio.sleep(max(0.0, start + len(values) * FRAME_SEC - time.monotonic()))
        await asyncio.sleep(3)
        frames = client.of("frame")
        latencies = sorted(frame["latency_ms"] for frame in frames)
        heard = [round(float(sound[0]), 2) for sound in client.sounds]
        return {
            "frames sent": len(values),
            "frames answered": len(frames),
            "every answer is right": heard == values[1:] if is_echo else "not an echo",
            "late": frames[-1]["late_frames"],
            "dropped": frames[-1]["dropped_frames"],
            "latency ms (median, p99, p99.9)": [latencies[len(latencies) * p // 1000] for p in (500, 990, 999)],
            "ended by": client.of("end"),
        }  # fmt: skip


def most_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def open_session(model: str | None) -> Any:
    """Rows of a model, or of the stand-in."""
    if model is None:
        return StandInSession(64, step_sec=0.02)
    from hf_moshi_ttt.commands.console import parse
    from hf_moshi_ttt.commands.serve import open_session as rows_of

    return rows_of(parse("serve", [model, "--rows", "64"]))


async def measure(arguments: argparse.Namespace) -> None:
    """Runs the server, the good client here, and the bad ones in a process."""
    async with serving(open_session(arguments.model), LIMITS) as server:
        before_mib = most_mib()
        is_over = asyncio.Event()
        good = asyncio.create_task(talk(server, is_over, arguments.model is None))
        options = ["--seconds", str(arguments.seconds), "--clients", str(arguments.clients)]
        program = [sys.executable, __file__, "--attack", url(server, ""), *options]
        attackers = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE)
        said, _ = await attackers.communicate()
        is_over.set()
        result = await good
        await asyncio.sleep(1)
        for name, ending, count in json.loads(said):
            expected = "" if ending in BAD_CLIENTS[name].endings else "  NOT EXPECTED"
            print(f"{name:<16}{ending:<12}{count:>6}{expected}")
        for name, value in result.items():
            print(f"{name}: {value}")
        rows = server.shared.rows
        print(f"connections, rows, queue left: {len(server.connections)}, {rows.num_taken}, {rows.num_waiting}")
        print(f"memory: {before_mib:.0f} MiB at the start, {most_mib():.0f} at most")
    print(f"load of the machine: {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--model", help="name or path of a TTT-Moshi checkpoint, in place of the stand-in")
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attack:
        asyncio.run(attack(arguments.attack, arguments.seconds, arguments.clients))
    else:
        asyncio.run(measure(arguments))


if __name__ == "__main__":
    main()
