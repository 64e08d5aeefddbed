"""Kernels, bytes and arithmetic of the 7B on a GPU, counted on the meta device at its true sizes; nothing is measured.

python benchmarks/count_kernels.py                       every subject
python benchmarks/count_kernels.py ttt-triton live       some of them
python benchmarks/count_kernels.py --size tiny --json    the small model, for programs

The real code runs on tensors without content, so that branches for GPUs are taken. A kernel is an operation that is not
a view; attention counts as one. `work` is max(bytes / 3 TB/s, arithmetic / peak) of each, with peaks of 700 TFLOP/s in
bfloat16 and 50 in float32, `eager` at least 9 us a kernel, `graph` the work and 2 us a kernel: estimates of an H100.
"""

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import torch
from meta_device import as_a_gpu_runs, half
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_moshi_ttt import MoshiTTTConfig, MoshiTTTForConditionalGeneration, Sampling, TTTConfig, TTTLayer
from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.memory import (
    answer_kernels,
    delta_kernels,
    front_end_kernels,
    triton_answers,
    triton_chunks,
    triton_delta_rule,
    triton_frame,
    triton_front_end,
)
from hf_moshi_ttt.memory import live_frame as frames_in_one_kernel
from hf_moshi_ttt.memory.online import features
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTDecoderLayer

BYTES_PER_SEC, BF16_FLOPS, FP32_FLOPS = 3e12, 7e14, 5e13
EAGER_SEC, GRAPH_SEC = 9e-6, 2e-6
NO_KERNEL = {"detach", "alias", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided",
             "promote_types"}  # fmt: skip
_WRITTEN = {"out", "grad_input"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "baddbmm_", "addmm_"}
SIZES = {"7b": ("moshi-7b", 4, 750), "tiny": ("tiny", 2, 40)}


@dataclass
class Counts:
    """What one subject does; times in seconds."""

    kernels: int = 0
    gigabytes: float = 0.0
    teraflops: float = 0.0
    work_sec: float = 0.0
    eager_sec: float = 0.0
    graph_sec: float = 0.0
    reads_by_host: int = 0
    most: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, moved_bytes: float, flops: float, dtype: torch.dtype | None) -> None:
        """One kernel."""
        peak = FP32_FLOPS if dtype == torch.float32 else BF16_FLOPS
        work = max(moved_bytes / BYTES_PER_SEC, flops / peak)
        self.kernels += 1
        self.gigabytes += moved_bytes / 1e9
        self.teraflops += flops / 1e12
        self.work_sec += work
        self.eager_sec += max(work, EAGER_SEC)
        self.graph_sec += work + GRAPH_SEC
        self.most[name] = self.most.get(name, 0) + 1


class _Counting(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero"):
            self.counts.reads_by_host += 1
        if func.is_view or name in NO_KERNEL or name.startswith(("view", "_unsafe_view", "_reshape_alias", "sym_")):
            return out
        read = args, {key: value for key, value in (kwargs or {}).items() if key not in _WRITTEN}
        inputs, outputs = ([x for x in tree_leaves(y) if isinstance(x, Tensor)] for y in (read, out))
        moved = _bytes(outputs) * 2 if name == "embedding" else _bytes(inputs) + _bytes(outputs)
        self.counts.add(name, moved, _flops(name, inputs), inputs[0].dtype if inputs else None)
        return out


def _bytes(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def _flops(name: str, inputs: list[Tensor]) -> float:
    if name in PRODUCTS:
        left, right = [x for x in inputs if x.dim() >= 2][-2:]
        return 2 * left.numel() * right.shape[-1]
    if name.startswith("attention"):
        q, k = inputs[-3:-1]
        return 4 * q.numel() * k.shape[2] * (2.5 if "backward" in name else 1)
    return 0


@contextlib.contextmanager
def counting(kernel: str = "torch") -> Iterator[Counts]:
    """Counts what runs inside the block.

    Args:
        kernel: what the delta rule of TTT layers runs on, torch or triton.
    """
    counts = Counts()

    def launch(function: Any, readers: Tensor, fast: Tensor, tensors: tuple[Tensor, ...], *flags: bool) -> None:
        rows, chunks, frames, features = readers.shape
        flops = 3 * 2 * rows * chunks * frames * features * fast.shape[-1]
        counts.add(function.__name__, _bytes([x for x in tensors if isinstance(x, Tensor)]), flops, torch.float32)

    def frame(slow_layers: Any, tokens: Any, fast: Tensor) -> tuple[Tensor, Tensor]:
        answers, after = torch.empty_like(tokens.v), torch.empty_like(fast)
        phi, factor = features(torch.cat([tokens.q, tokens.k], dim=2), slow_layers)
        counts.add("_frame_kernel", _bytes([phi, factor, *tokens[2:], fast, answers, after]), 0, torch.float32)
        return answers, after

    def whole_frame(grid: Any, tensors: tuple[Tensor | None, ...], *sizes: Any) -> None:
        counts.add("_whole_frame_kernel", _bytes([x for x in tensors if x is not None]), 0, torch.float32)

    def chunks(function: Any, grid: Any, tensors: tuple[Tensor, ...], sizes: tuple[int, int, int, int]) -> None:
        (length, _, width, features), (rows, _) = sizes, grid
        products = 2 if "back" in function.__name__ else 1
        flops = products * rows * length * 2 * features * (2 * width + 5 * triton_chunks.CHUNK_FRAMES)
        counts.add(f"chunks_{function.__name__}", _bytes(list(tensors)), flops, torch.float32)

    def answers(function: Any, grid: Any, tensors: tuple[Tensor | None, ...], sizes: Any) -> None:
        counts.add(f"answers{function.__name__}", _bytes([x for x in tensors if x is not None]), 0, torch.float32)

    def front_end(function: Any, rows: int, tensors: tuple[Tensor | None, ...], *sizes: Any) -> None:
        counts.add(f"front_end{function.__name__}", _bytes([x for x in tensors if x is not None]), 0, torch.float32)

    with (
        as_a_gpu_runs(),
        mock.patch.object(delta_kernels, "chosen_kernel", lambda _: kernel),
        mock.patch.object(triton_delta_rule, "_launch", launch),
        mock.patch.object(triton_delta_rule, "triton_single_frame", frame),
        mock.patch.object(frames_in_one_kernel, "chosen_kernel", lambda _: kernel),
        mock.patch.object(frames_in_one_kernel, "is_chosen_by_trial", lambda: False),
        mock.patch.object(front_end_kernels, "chosen_kernel", lambda _: kernel),
        mock.patch.object(front_end_kernels, "is_chosen_by_trial", lambda: False),
        mock.patch.object(answer_kernels, "chosen_kernel", lambda _: kernel),
        mock.patch.object(answer_kernels, "is_chosen_by_trial", lambda: False),
        mock.patch.object(triton_answers, "launch", answers),
        mock.patch.object(triton_chunks, "launch", chunks),
        mock.patch.object(triton_front_end, "launch", front_end),
        mock.patch.object(triton_frame, "launch_frame", whole_frame),
        _Counting(counts),
    ):
        yield counts


LAYERS: dict[str, tuple[dict[str, Any], str]] = {
    "ttt": ({}, "torch"),
    "ttt-triton": ({}, "triton"),
    "gated_delta": ({"learner": "gated_delta"}, "torch"),
    "mini_batch-1": ({"preset": "mini_batch", "ttt_mlp_layers": 1}, "torch"),
    "mini_batch-2": ({"preset": "mini_batch", "ttt_mlp_layers": 2}, "torch"),
}
MODELS = {"live": "torch", "live-triton": "triton", "train": "torch", "train-triton": "triton", "live-plain": "torch",
          "train-plain": "torch"}  # fmt: skip


def one_layer(preset: str, shape: tuple[int, int], subject: str) -> Counts:
    """Forward and backward of one layer: `moshi`, or a TTT layer of `LAYERS`."""
    options, kernel = LAYERS.get(subject, ({}, "torch"))
    config = MoshiTTTConfig.from_preset(preset, ttt=None)
    with torch.device("meta"):
        if subject == "moshi":
            layer: Any = half(MoshiTTTDecoderLayer(config, 0))
        else:
            layer = half(TTTLayer(config.hidden_size, config.num_attention_heads, TTTConfig(**options)))
        x = torch.empty(*shape, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
        with counting(kernel) as counts:
            output = layer(x)
            (output[0] if subject == "moshi" else output.output).sum().backward()
    return counts


def make_model(preset: str, plain: bool) -> MoshiTTTForConditionalGeneration:
    """The model on the meta device, with a default TTT in the layers of its preset unless `plain`."""
    overrides: dict[str, Any] = {"ttt": None if plain else {}}
    with torch.device("meta"):
        return half(MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(preset, **overrides)))


def live_frame(preset: str, subject: str) -> Counts:
    """One sampled frame of one stream, after one in which the model finds out what does not change."""
    model = make_model(preset, subject.endswith("plain")).eval()
    state = model.init_state(1, device="meta")
    codes = torch.zeros(1, model.config.num_streams, dtype=torch.int64, device="meta")
    with torch.device("meta"), counting(MODELS[subject]):
        model.step_with_logits(codes, state, Sampling())
    with torch.device("meta"), counting(MODELS[subject]) as counts:
        model.step_with_logits(codes, state, Sampling())
    return counts


def training_step(preset: str, shape: tuple[int, int], subject: str) -> Counts:
    """Forward and backward with LoRA, the TTT layers trained, activations checkpointed; without the optimizer."""
    plain = subject.endswith("plain")
    model = make_trainable(make_model(preset, plain), "lora" if plain else "lora+ttt")
    base = model.get_base_model()
    base.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    codes = torch.zeros(shape[0], base.config.num_streams, shape[1], dtype=torch.int64, device="meta")
    with torch.device("meta"), counting(MODELS[subject]) as counts:
        base.train()(codes=codes, labels=codes, return_logits=False).loss.backward()
    return counts


def count(subject: str, size: str) -> Counts:
    """The counts of one subject."""
    preset, *shape = SIZES[size]
    if subject not in MODELS:
        return one_layer(preset, tuple(shape), subject)
    if subject.startswith("live"):
        return live_frame(preset, subject)
    return training_step(preset, tuple(shape), subject)


def main() -> None:
    subjects = ["moshi", *LAYERS, *MODELS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="*", help=", ".join(subjects))
    parser.add_argument("--size", choices=SIZES, default="7b")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    unknown = set(arguments.subjects) - set(subjects)
    if unknown:
        parser.error(f"no subject {sorted(unknown)}; choose from {', '.join(subjects)}")
    if not arguments.json:
        print("subject         kernels       GB    TFLOP   work ms  eager ms  graph ms  host reads")
    for subject in arguments.subjects or subjects:
        start = time.perf_counter()
        found = count(subject, arguments.size)
        if arguments.json:
            print(json.dumps({"subject": subject, "size": arguments.size, **asdict(found)}), flush=True)
            continue
        times = "".join(f"{1e3 * x:10.2f}" for x in (found.work_sec, found.eager_sec, found.graph_sec))
        print(
            f"{subject:14} {found.kernels:8,} {found.gigabytes:8.2f} {found.teraflops:8.2f}{times}"
            f"  {found.reads_by_host}   (counted in {time.perf_counter() - start:.0f} s)", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
