"""Everything that only a GPU can show, in one command of at most 8 minutes that goes on where it was stopped.

    python benchmarks/device_check.py                        # on a GPU: the 7B with random weights
    python benchmarks/device_check.py --dry-run              # the parts, their limits and sizes; runs nothing
    python benchmarks/device_check.py --size tiny            # on CPUs too: the same code at tiny sizes

Each part runs in a process of its own with a time limit. Its figures are printed and written to device_check.json
as they come; a part that is done there is not run again, one that failed or ran out of time is.

equality     CPU against device in float32 and bfloat16, frames against whole, the memory's kernels, `pytest -m gpu`
layers       forward and backward of a Moshi layer and of TTT layers by learner and kernel, ms
training     a step of LoRA + TTT with activation checkpointing beside plain Moshi: frames/s, MFU, TTT's share, and the
             memory that a dry run of training predicts beside the measured peak
live         ms of a live frame, p50 and p99: eager and as a CUDA graph, int8, late in a stream, the largest batch
evaluation   seconds for 24,990 positions
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor

from hf_moshi_ttt import GREEDY, MoshiTTTConfig, MoshiTTTForConditionalGeneration, Sampling, TTTConfig, TTTLayer
from hf_moshi_ttt.checkpoints.adapters import lora_config, make_trainable
from hf_moshi_ttt.memory.delta_kernels import use_memory_kernel, why_not
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTDecoderLayer
from hf_moshi_ttt.streaming.graphed_step import GraphedStep, StaticStep
from hf_moshi_ttt.training.dry_run import MeasuredSteps

ROOT = Path(__file__).parents[1]
FRAME_MS = 80.0
PEAK_FLOPS = 989e12  # bfloat16 of an H100 SXM, dense
Figures = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Size:
    """What is measured: preset, rows and frames of a training step, repetitions, live frames, positions, lora_rank."""

    preset: str
    batch: int
    frames: int
    repeats: int
    live_frames: int
    positions: int
    lora_rank: int


SIZES = {"7b": Size("moshi-7b", 4, 750, 5, 200, 24_990, 128), "tiny": Size("tiny", 2, 40, 1, 3, 64, 2)}


@dataclass(frozen=True)
class Setup:
    """A size on a device."""

    size: Size
    device: str

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16 on GPUs."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def wait(self) -> None:
        """For everything that was started."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def model(self, preset: str | None = None, **changes: Any) -> Any:
        """A model with random weights, its TTT branches awake."""
        torch.manual_seed(0)
        config = MoshiTTTConfig.from_preset(preset or self.size.preset, **changes)
        with torch.device(self.device):
            model = MoshiTTTForConditionalGeneration(config)
        for name, parameter in model.named_parameters():
            if "learner" not in name and "ttt_gate" not in name:
                parameter.data = parameter.data.to(self.dtype)
            if name.endswith("ttt.o_proj.weight"):
                torch.nn.init.normal_(parameter, std=0.01)
        return model.eval()

    def codes(self, config: MoshiTTTConfig, batch: int, frames: int) -> Tensor:
        """Random codes `[B, K, T]`."""
        return torch.randint(0, config.codebook_size, (batch, config.num_streams, frames), device=self.device)

    def milliseconds(self, run: Callable[[], object], repeats: int | None = None) -> list[float]:
        """Of each run, after one that does not count."""
        run()
        found = []
        for _ in range(repeats or self.size.repeats):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            found.append(1e3 * (time.perf_counter() - start))
        return found


def equality(setup: Setup) -> Figures:
    """Largest differences of logits, by the largest logit."""
    on_cpu, preset = Setup(setup.size, "cpu"), "small" if setup.device == "cuda" else "tiny"
    model = on_cpu.model(preset)
    codes = on_cpu.codes(model.config, 1, 20)
    true = model(codes=codes).text_logits
    for dtype in (torch.float32, torch.bfloat16):
        other = on_cpu.model(preset).to(setup.device)
        for name, parameter in other.named_parameters():
            if "learner" not in name and "ttt_gate" not in name:
                parameter.data = parameter.data.to(dtype)
        on_device = codes.to(setup.device)
        whole = other(codes=on_device).text_logits.float()
        yield f"cpu_against_device_{dtype}", _difference(whole.cpu(), true)
        state, steps = other.init_state(1), []
        for frame in on_device.unbind(2):
            step = other.step_with_logits(frame, state, GREEDY)
            state = step.state
            steps.append(step.text_logits.float())
        yield f"frames_against_whole_{dtype}", _difference(torch.stack(steps, dim=1), whole)
    if setup.device == "cuda":
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"]
        tests = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        yield "pytest_gpu", tests.stdout.strip().splitlines()[-1:] + [f"exit code {tests.returncode}"]


def _difference(own: Tensor, true: Tensor) -> float:
    return ((own - true).abs().max() / true.abs().max()).item()


def layers(setup: Setup) -> Figures:
    """Milliseconds of forward and backward at the size of a training step."""
    config = MoshiTTTConfig.from_preset(setup.size.preset, ttt=None)
    with torch.device(setup.device):
        moshi = MoshiTTTDecoderLayer(config, 0).to(setup.dtype)
    yield "moshi_layer_ms", min(setup.milliseconds(_training_of(setup, config, lambda x: moshi(x)[0])))
    kinds: dict[str, dict[str, Any]] = {
        "online": {}, "gated_delta": {"learner": "gated_delta"},
        **{f"mini_batch_{depth}": {"preset": "mini_batch", "ttt_mlp_layers": depth} for depth in (1, 2, 5)},
    }  # fmt: skip
    for kind, options in kinds.items():
        with torch.device(setup.device):
            layer = TTTLayer(config.hidden_size, config.num_attention_heads, TTTConfig(**options))
        for child in (child for name, child in layer.named_children() if name != "learner"):
            child.to(setup.dtype)
        run = _training_of(setup, config, lambda x, layer=layer: layer(x).output)
        for kernel in ("torch", "fla", "triton") if kind == "online" else ("torch",):
            reason = "" if kernel == "torch" else why_not(kernel, layer.init_state(1).fast_weights)
            if reason:
                yield f"{kind}_{kernel}_ms", f"not measured: {reason}"
                continue
            with use_memory_kernel(kernel):
                yield f"{kind}_{kernel}_ms", min(setup.milliseconds(run))
                if setup.device == "cuda":
                    yield f"{kind}_{kernel}_graphed_ms", min(setup.milliseconds(_graphed(run)))


def _training_of(setup: Setup, config: MoshiTTTConfig, run: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    shape = (setup.size.batch, setup.size.frames, config.hidden_size)
    x = torch.randn(*shape, device=setup.device, dtype=setup.dtype, requires_grad=True)
    return lambda: run(x).sum().backward()


def _graphed(run: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def training(setup: Setup) -> Figures:
    """A step without the optimizer; MFU counts 4 flops a frame and weight that is multiplied, as the base is frozen."""
    size, seconds = setup.size, {}
    for name, changes in (("plain", {"ttt": None}), ("ttt", {"ttt": {}})):
        model = setup.model(**changes)
        config, weights = model.config, sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
        lora = lora_config(config, size.lora_rank, ttt=name == "ttt")
        trained = make_trainable(model, "lora" if name == "plain" else "lora+ttt", lora)
        base = trained.get_base_model()
        base.activation_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
        base.train()
        codes = setup.codes(config, size.batch, size.frames)
        if setup.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run = lambda base=base, codes=codes: base(codes=codes, labels=codes).loss.backward()  # noqa: E731
        yield f"{name}_predicted_gib", _predicted_bytes(base, codes) / 2**30
        seconds[name] = min(setup.milliseconds(run)) / 1e3
        frames_per_sec = size.batch * size.frames / seconds[name]
        yield f"{name}_step_sec", seconds[name]
        yield f"{name}_frames_per_sec", frames_per_sec
        yield f"{name}_codes_per_sec", frames_per_sec * config.num_streams
        yield f"{name}_mfu", 4 * weights * frames_per_sec / PEAK_FLOPS
        if setup.device == "cuda":
            yield f"{name}_peak_gib", torch.cuda.max_memory_allocated() / 2**30
        del model, trained, base, run
    yield "share_of_ttt", 1 - seconds["plain"] / seconds["ttt"]


def _predicted_bytes(model: Any, codes: Tensor) -> int:
    """Weights, gradients, and what a forward pass keeps, counted as `--dry-run` of training does."""
    weights, measured = list(model.parameters()), MeasuredSteps()
    with measured.watched(weights):
        model(codes=codes, labels=codes)
    gradients = sum(weight.nbytes for weight in weights if weight.requires_grad)
    return sum(weight.nbytes for weight in weights) + gradients + measured.activations


def live(setup: Setup) -> Figures:
    """Milliseconds of a sampled frame."""
    model = setup.model()
    for name, kind in (("eager", StaticStep), ("graphed", GraphedStep)):
        if kind is GraphedStep and setup.device != "cuda":
            yield "graphed", "not measured: a CUDA graph needs CUDA"
            continue
        yield from _frame_times(setup, name, kind(model, model.init_state(1), Sampling()))
        late = model.init_state(1)
        late.frames.fill_(45_000)
        yield from _frame_times(setup, f"{name}_frame_45000", kind(model, late, Sampling()))
    yield from _largest_batch(setup, model)
    if find_spec("torchao") is None:
        yield "int8", "not measured: torchao is not installed"
        return
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig(), lambda m, name: isinstance(m, torch.nn.Linear) and ".ttt." not in name)
    yield from _frame_times(setup, "int8_eager", StaticStep(model, model.init_state(1), Sampling()))


def _frame_times(setup: Setup, name: str, step: StaticStep) -> Figures:
    frame = torch.full_like(step.codes_frame, 5)
    frame[:, : 1 + step.model.config.num_codebooks] = -2
    times = sorted(setup.milliseconds(lambda: step(frame), setup.size.live_frames))
    yield f"{name}_p50_ms", times[len(times) // 2]
    yield f"{name}_p99_ms", times[int(0.99 * (len(times) - 1))]


def _largest_batch(setup: Setup, model: Any) -> Figures:
    """By doubling, until the slowest of a hundred frames takes longer than a frame lasts, or memory ends."""
    largest, batch, kind = 0, 1, GraphedStep if setup.device == "cuda" else StaticStep
    while batch <= (1024 if setup.device == "cuda" else 2):
        try:
            times = dict(_frame_times(setup, "batch", kind(model, model.init_state(batch), Sampling())))
        except torch.cuda.OutOfMemoryError:
            yield "memory_ends_at_batch", batch
            break
        yield f"batch_{batch}_p99_ms", times["batch_p99_ms"]
        if times["batch_p99_ms"] > FRAME_MS:
            break
        largest, batch = batch, 2 * batch
    yield "largest_batch_within_80_ms", largest


@torch.no_grad()
def evaluation(setup: Setup) -> Figures:
    """A recording read in blocks with its losses."""
    model, block = setup.model(), 512
    state, start = model.init_state(1), time.perf_counter()
    for first in range(0, setup.size.positions, block):
        codes = setup.codes(model.config, 1, min(block, setup.size.positions - first))
        state = model(codes=codes, labels=codes, state=state).state
    setup.wait()
    yield "positions", setup.size.positions
    yield "seconds", time.perf_counter() - start


PARTS: dict[str, tuple[Callable[[Setup], Figures], int]] = {
    "equality": (equality, 100), "layers": (layers, 90), "training": (training, 110), "live": (live, 120),
    "evaluation": (evaluation, 60),
}  # fmt: skip


def run_all(path: Path, head: dict[str, Any], start: Callable[[str, int], Figures]) -> dict[str, Any]:
    """Runs what is not done in the file, and keeps every figure there as it comes.

    Args:
        start: yields the figures of a part that may take some seconds; a TimeoutError or a RuntimeError ends the part.
    """
    report = json.loads(path.read_text()) if path.is_file() else {**head, "parts": {}}
    for name, (_, limit_sec) in PARTS.items():
        part = report["parts"].setdefault(name, {"state": "not run", "figures": {}})
        if part["state"] == "done":
            continue
        begun = time.perf_counter()
        part["state"] = "running"
        try:
            for figure, value in start(name, limit_sec):
                part["figures"][figure] = value
                print(
                    f"{name:12} {figure:40} {value:.4g}"
                    if isinstance(value, float)
                    else f"{name:12} {figure:40} {value}"
                )
                path.write_text(json.dumps(report, indent=1))
            part["state"] = "done"
        except (TimeoutError, RuntimeError) as error:
            part["state"] = f"{type(error).__name__}: {error}"
        part["seconds"] = time.perf_counter() - begun
        print(f"{name:12} {part['state']} after {part['seconds']:.0f} s", flush=True)
        path.write_text(json.dumps(report, indent=1))
    return report


def in_a_process(command: list[str], limit_sec: float) -> Figures:
    """The figures that a process prints, a JSON pair a line.

    Raises:
        TimeoutError: it took longer, and was killed.
        RuntimeError: it failed; with the end of what it said.
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None and process.stderr is not None
        timer = Timer(limit_sec, process.kill)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith("["):
                    yield tuple(json.loads(line))
            said = process.stderr.read()
            code = process.wait()
        finally:
            process.kill()
            out_of_time = not timer.is_alive()
            timer.cancel()
    if out_of_time:
        raise TimeoutError(f"more than {limit_sec:g} s")
    if code != 0:
        raise RuntimeError(f"exit code {code}: {' / '.join(said.strip().splitlines()[-3:])}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("device_check.json"))
    parser.add_argument("--dry-run", action="store_true", help="print the parts and run nothing")
    parser.add_argument("--only", choices=PARTS, help="print the figures of one part as JSON lines")
    options = parser.parse_args(arguments)
    setup = Setup(SIZES[options.size], options.device)
    if options.only:
        for figure in PARTS[options.only][0](setup):
            print(json.dumps(figure), flush=True)
    elif options.dry_run:
        for name, (part, limit_sec) in PARTS.items():
            print(f"{name:12} at most {limit_sec:3} s   {part.__doc__}")
        print(f"{sum(limit for _, limit in PARTS.values())} s at most on {setup.device}: {asdict(setup.size)}")
    elif options.size == "7b" and setup.device != "cuda":
        parser.error("no CUDA device: give --size tiny to run the same code on CPUs")
    else:
        card = torch.cuda.get_device_name() if setup.device == "cuda" else platform.processor() or "CPU"
        head = {"device": card, "torch": torch.__version__, "size": asdict(setup.size)}
        own = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--size",
            options.size,
            "--device",
            setup.device,
            "--only",
        ]
        run_all(options.output, head, lambda name, limit_sec: in_a_process([*own, name], limit_sec))


if __name__ == "__main__":
    main()
