"""One table: start-up, a live frame, a training step and its memory, each beside a baseline of the same run.

    python benchmarks/table.py                        # everything, about four minutes on a quiet core
    python benchmarks/table.py --only live training --json table.json
    python benchmarks/table.py --only live training --compile  # and ours compiled by inductor, which takes ten minutes

Baselines are `python -c "import torch"`, and Kyutai's own package with the same weights: its LMGen for live frames, its
LMModel with the losses of moshi-finetune for training. The cases of a row take turns, so that a machine that becomes
slow slows them all, and times are CPU seconds of this process on one thread, so that other programs count less. What
compiling took is the time of the first frames or steps, until one is as fast as those after it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from launches import count, training_step

from hf_moshi_ttt import GREEDY, MoshiTTTConfig, MoshiTTTForConditionalGeneration
from hf_moshi_ttt.checkpoints.kyutai import build_lm_model, to_kyutai

os.environ.setdefault("NO_TORCH_COMPILE", "1")  # Kyutai's package would compile on the first frame
START_UPS = {
    "import torch": ["-c", "import torch"],
    "import hf_moshi_ttt": ["-c", "import hf_moshi_ttt"],
    "hf-moshi-ttt --help": ["-m", "hf_moshi_ttt.commands.console", "--help"],
    "hf-moshi-ttt train --help": ["-m", "hf_moshi_ttt.commands.console", "train", "--help"],
}
COMPILED = ("ours, plain", "ours, with TTT")  # mini-batches are unrolled, which takes a compiler too long
WARM_UP_FRAMES = 10
Case = Callable[[], Any]


@dataclass
class Row:
    """A measured case; `ratio` is to the first row of its group."""

    group: str
    name: str
    value: float
    unit: str
    ratio: float
    seconds: list[float]


def in_turns(group: str, cases: dict[str, Case], repeats: int, warm_up: int) -> list[Row]:
    """Medians of CPU seconds; the first case is the baseline. The ratio is the median of those of each turn."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warm_up, repeats):
        for name, case in cases.items():
            start = time.process_time()
            case()
            if turn >= 0:
                seconds[name].append(time.process_time() - start)
    return rows_of(group, seconds)


def rows_of(group: str, seconds: dict[str, list[float]]) -> list[Row]:
    baseline = next(iter(seconds.values()))
    return [
        Row(
            group, name, 1e3 * statistics.median(found), "CPU ms",
            statistics.median(one / base for one, base in zip(found, baseline, strict=True)), found,
        )
        for name, found in seconds.items()
    ]  # fmt: skip


def models() -> tuple[Any, dict[str, Any]]:
    """Kyutai's model and ours of preset small, plain with the same weights and with TTT."""
    torch.manual_seed(0)
    config = MoshiTTTConfig.from_preset("small", ttt=None)
    plain = MoshiTTTForConditionalGeneration(config)
    kyutai = build_lm_model(config)
    kyutai.load_state_dict(to_kyutai(plain.state_dict(), "new"))
    ours = {"ours, plain": plain}
    for name, ttt in (("ours, with TTT", {}), ("ours, mini-batches of depth 2", {"preset": "mini_batch"})):
        ours[name] = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("small", ttt=ttt))
    return kyutai, ours


def random_codes(config: MoshiTTTConfig, batch: int, frames: int) -> Tensor:
    audio = torch.randint(config.codebook_size, (batch, config.num_streams, frames))
    audio[:, 0] = torch.randint(4, config.text_vocab_size, (batch, frames))
    return audio


def start_up(repeats: int) -> list[Row]:
    """CPU seconds of whole processes."""

    def run(arguments: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds: dict[str, list[float]] = {name: [] for name in START_UPS}
    for _ in range(repeats):
        for name, arguments in START_UPS.items():
            seconds[name].append(run(arguments))
    return rows_of("start-up", seconds)


def warmed_up(name: str, case: Case) -> Row:
    """Runs a compiled case until two calls in a row take less than half a second or a tenth of the slowest, and never
    more than `WARM_UP_FRAMES` times: a machine may be too slow for that."""
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < WARM_UP_FRAMES and max(seconds[-2:]) > max(0.5, max(seconds) / 10)):
        start = time.perf_counter()
        case()
        seconds.append(time.perf_counter() - start)
    return Row("compiling", name, sum(seconds), "s", sum(seconds) / seconds[-1], seconds)


def live(kyutai: Any, ours: dict[str, Any], repeats: int, compiles: bool) -> list[Row]:
    """Single frames of one stream, most likely codes taken."""
    from moshi.models.lm import LMGen

    generator = LMGen(kyutai.eval(), use_sampling=False)
    generator.streaming_forever(1)
    config = next(iter(ours.values())).config
    user = random_codes(config, 1, repeats + 3 * WARM_UP_FRAMES)[:, 1 + config.num_codebooks :]

    def kyutais_frames() -> Case:
        frames = iter(user.split(1, dim=2))
        return lambda: generator.step(next(frames))

    def our_frames(model: Any, step: Any) -> Case:
        stream, frames = [model.init_state(1)], iter(user.unbind(2))
        own = torch.full((1, 1 + config.num_codebooks), -2)

        def frame() -> None:
            stream[0] = step(torch.cat([own, next(frames)], 1), stream[0], GREEDY).state

        return frame

    cases, compiling = {"Kyutai's LMGen": kyutais_frames()}, []
    with torch.no_grad():
        for name, model in ours.items():
            cases[name] = our_frames(model.eval(), model.step_with_logits)
            if compiles and name in COMPILED:
                cases[f"{name}, compiled"] = our_frames(model, torch.compile(model.step_with_logits))
                compiling.append(warmed_up(f"live frame, {name}", cases[f"{name}, compiled"]))
        return in_turns("live frame", cases, repeats, WARM_UP_FRAMES) + compiling


def kyutais_training_step(lm: Any, codes: Tensor) -> Case:
    """Forward, the losses of moshi-finetune without its weights, backward."""
    audio, text = codes[:, 1 : 1 + lm.dep_q], codes[:, 0]

    def step() -> None:
        output = lm(codes)
        mask, text_mask = output.mask, output.text_mask[:, 0]
        loss = F.cross_entropy(output.logits[mask].float(), audio[mask])
        loss = loss + F.cross_entropy(output.text_logits[:, 0][text_mask].float(), text[text_mask])
        loss.backward()
        lm.zero_grad(set_to_none=True)

    lm.train()
    return step


def training(kyutai: Any, ours: dict[str, Any], repeats: int, compiles: bool) -> list[Row]:
    """One step of 2 x 250 frames, and the memory that its results hold at most (see launches.py)."""
    codes = random_codes(next(iter(ours.values())).config, 2, 250)
    cases, compiling = {"Kyutai's LMModel": kyutais_training_step(kyutai, codes)}, []
    for name, model in ours.items():
        cases[name] = training_step(model, codes)
        if compiles and name in COMPILED:
            any_model: Any = torch.compile(model)
            cases[f"{name}, compiled"] = training_step(any_model, codes)
            compiling.append(warmed_up(f"training step, {name}", cases[f"{name}, compiled"]))
    rows = in_turns("training step", cases, repeats, 1) + compiling
    peaks = {name: count(case).peak_mib for name, case in cases.items()}
    baseline = next(iter(peaks.values()))
    return rows + [Row("memory of it", name, peak, "MiB", peak / baseline, []) for name, peak in peaks.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["start-up", "live", "training"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--frames", type=int, default=150, help="live frames a case (%(default)s)")
    parser.add_argument("--steps", type=int, default=7, help="training steps a case (%(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="processes a case (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also our models compiled by inductor")
    parser.add_argument("--json", type=Path, help="where to write the rows with every single time")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = start_up(arguments.starts) if "start-up" in arguments.only else []
    if {"live", "training"} & set(arguments.only):
        kyutai, ours = models()
    if "training" in arguments.only:
        rows += training(kyutai, ours, arguments.steps, arguments.compile)
    if "live" in arguments.only:
        rows += live(kyutai, ours, arguments.frames, arguments.compile)
    print(f"{platform.processor() or platform.machine()}, one thread, torch {torch.__version__}")
    for row in rows:
        print(f"{row.group:<14} {row.name:<48} {row.value:>9.1f} {row.unit:<7} {row.ratio:>6.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
