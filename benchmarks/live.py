"""A live frame with its codec: ours with and without memory, beside Kyutai's LMGen and Mimi of the same weights.

    python benchmarks/live.py                                      # preset small, a few minutes on a quiet core
    python benchmarks/live.py --sessions 1 --codec none            # the model alone
    python benchmarks/live.py --preset tiny --codec none --sessions 1 --hours 1

The model and Mimi have random weights; Mimi is of the published size. The cases take turns, so that a machine that
becomes slow slows them all. Times are CPU milliseconds of this thread, and wall milliseconds beside them: with nothing
else on the machine they are the same. `--hours` streams that long and
compares frame 100 with those of every hour and the last ones.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import MimiConfig, MimiModel

from hf_moshi_ttt import GREEDY, MoshiTTTConfig, MoshiTTTForConditionalGeneration, MoshiTTTProcessor, MoshiTTTSession
from hf_moshi_ttt.checkpoints.kyutai import build_lm_model, to_kyutai
from hf_moshi_ttt.checkpoints.kyutai_mimi import kyutai_mimi, without_compiling
from hf_moshi_ttt.codec.audio import FRAME_RATE_HZ, FRAME_SAMPLES

os.environ.setdefault("NO_TORCH_COMPILE", "1")  # Kyutai's package would compile on the first frame
WARM_UP_FRAMES = 5
FRAMES_AN_HOUR = round(3600 * FRAME_RATE_HZ)
KYUTAI = "Kyutai's LMGen and Mimi"
Case = Callable[[], Any]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", help="(%(default)s)")
    parser.add_argument("--codec", choices=["mimi", "none"], default="mimi")
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--frames", type=int, default=40, help="measured in each case (%(default)s)")
    parser.add_argument("--hours", type=float, default=0.0, help="stream so long with memory (%(default)s)")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    return parser.parse_args()


class NoCodec:
    """In place of a codec's stream: random codes are heard, and silence is said."""

    delay_samples = 0

    def __init__(self, batch_size: int, config: MoshiTTTConfig) -> None:
        self.codes_BQ1 = torch.randint(config.codebook_size, (batch_size, config.num_codebooks, 1))

    def encode(self, samples_BS: Tensor, active_B: Tensor) -> Tensor:
        return self.codes_BQ1

    def decode(self, codes_BKT: Tensor, active_B: Tensor) -> Tensor:
        return torch.zeros(len(codes_BKT), FRAME_SAMPLES)

    def tensors(self) -> dict[str, Tensor]:
        return {}


def random_mimi(config: MoshiTTTConfig) -> MimiModel:
    """Of the published size, but for the number of codebooks."""
    mimi = MimiModel(MimiConfig(codebook_size=config.codebook_size, num_quantizers=config.num_codebooks)).eval()
    for name, table in mimi.named_buffers():
        if name.endswith("embed_sum"):  # zeros at first, and every code would be 0
            table.normal_()
    return mimi


@contextmanager
def kyutais_frames(lm: Any, mimi: MimiModel | None, sounds_BN: Iterator[Tensor]) -> Iterator[Case]:
    """A frame as Kyutai's server steps it."""
    from moshi.models.lm import LMGen

    batch = next(sounds_BN).shape[0]
    generator, codec = LMGen(lm, use_sampling=False), None if mimi is None else kyutai_mimi(mimi)
    known = torch.randint(lm.card, (batch, lm.n_q - lm.dep_q, 1))
    if codec is not None:
        codec.streaming_forever(batch)

    def frame() -> None:
        sound = next(sounds_BN)
        with torch.no_grad(), without_compiling():
            tokens = generator.step(known if codec is None else codec.encode(sound[:, None]))
            if tokens is not None and codec is not None:
                codec.decode(tokens[:, 1:])

    with generator.streaming(batch):
        yield frame


def our_frames(model: Any, mimi: MimiModel | None, sounds_BN: Iterator[Tensor]) -> Case:
    """A frame of a session."""
    session = open_session(model, mimi, next(sounds_BN).shape[0])
    return lambda: session.step(next(sounds_BN))


def open_session(model: Any, mimi: MimiModel | None, batch: int) -> MoshiTTTSession:
    processor = MoshiTTTProcessor(model.config)
    processor.codec = random_mimi(model.config) if mimi is None else mimi
    session = MoshiTTTSession(model, processor, batch_size=batch, sampling=GREEDY, diagnostics=False)
    if mimi is None:
        session.codec = NoCodec(batch, model.config)  # type: ignore[assignment]
    return session


def sounds(batch: int) -> Iterator[Tensor]:
    while True:
        yield 0.1 * torch.randn(batch, FRAME_SAMPLES)


def measured(cases: dict[str, Case], frames: int) -> dict[str, dict[str, float]]:
    """Median and 99th percentile of each case in CPU and wall milliseconds, and the median ratio to the first case."""
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    wall: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-WARM_UP_FRAMES, frames):
        for name, case in cases.items():
            starts = time.thread_time(), time.perf_counter()
            case()
            if turn >= 0:
                cpu[name].append(1e3 * (time.thread_time() - starts[0]))
                wall[name].append(1e3 * (time.perf_counter() - starts[1]))
    first = next(iter(cpu.values()))
    return {
        name: {
            "cpu_ms_median": statistics.median(cpu[name]),
            "cpu_ms_p99": float(np.percentile(cpu[name], 99)),
            "wall_ms_median": statistics.median(wall[name]),
            "wall_ms_p99": float(np.percentile(wall[name], 99)),
            "ratio": statistics.median(a / b for a, b in zip(cpu[name], first, strict=True)),
        }
        for name in cases
    }


def models(preset: str) -> tuple[Any, dict[str, Any]]:
    """Kyutai's model, and ours with the same weights and with memory beside them."""
    torch.manual_seed(0)
    plain = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(preset, ttt=None)).eval()
    lm = build_lm_model(plain.config).eval()
    lm.load_state_dict(to_kyutai(plain.state_dict(), "new"))
    torch.manual_seed(0)
    memory = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(preset)).eval()
    return lm, {"ours, plain": plain, "ours, with memory": memory}


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def long_stream(model: Any, hours: float) -> dict[str, Any]:
    """Median frame times of 100 frames near frame 100, at every hour and at the end; and how much the process has
    grown since frame 150."""
    session, frames = open_session(model, None, 1), round(hours * 3600 * FRAME_RATE_HZ)
    sound, latest, ms_at, grown = torch.zeros(1, FRAME_SAMPLES), deque[float](maxlen=100), {}, 0
    ends = {150, frames - 1, *range(FRAMES_AN_HOUR, frames, FRAMES_AN_HOUR)}
    for frame in tqdm(range(frames), unit="frame", mininterval=10):
        start = time.thread_time()
        session.step(sound)
        latest.append(1e3 * (time.thread_time() - start))
        if frame == 150:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if frame in ends:
            ms_at[frame] = statistics.median(latest)
    growth_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown) / 1024
    ratio = ms_at[frames - 1] / ms_at[150]
    return {"frames": frames, "ms_at": ms_at, "ratio_end_to_start": ratio, "growth_mib": growth_mib}


def main() -> None:
    arguments = parse_arguments()
    lm, ours = models(arguments.preset)
    config = ours["ours, plain"].config
    mimi = random_mimi(config) if arguments.codec == "mimi" else None
    report: dict[str, Any] = {"preset": arguments.preset, "codec": arguments.codec, "machine": platform.processor()}
    print(f"preset {arguments.preset}, {config.hidden_size} wide, codec {arguments.codec}, one thread; ms a frame")
    print(f"{'sessions':>8} {'':<24} {'CPU median':>10} {'p99':>8} {'wall median':>11} {'p99':>8} {'ratio':>6}")
    with one_thread():
        for batch in arguments.sessions:
            with kyutais_frames(lm, mimi, sounds(batch)) as theirs:
                cases = {name: our_frames(model, mimi, sounds(batch)) for name, model in ours.items()}
                report[str(batch)] = measured({KYUTAI: theirs, **cases}, arguments.frames)
            for name, found in report[str(batch)].items():
                print(
                    f"{batch:>8} {name:<24} {found['cpu_ms_median']:>10.1f} {found['cpu_ms_p99']:>8.1f} "
                    f"{found['wall_ms_median']:>11.1f} {found['wall_ms_p99']:>8.1f} {found['ratio']:>6.2f}",
                    flush=True,
                )
        if arguments.hours > 0:
            report["long"] = long_stream(ours["ours, with memory"], arguments.hours)
            print(json.dumps(report["long"], indent=1))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
