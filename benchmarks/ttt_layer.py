"""Time and memory of the TTT layer in training, and time of its live frames.

    python benchmarks/ttt_layer.py                    # beside its naive form and a Moshi layer
    python benchmarks/ttt_layer.py --ttt-lm FOLDER    # and beside ttt.py of test-time-training/ttt-lm-pytorch in FOLDER

Every training case runs in a process of its own, so that its peak memory is its own. Comparisons with ttt-lm-pytorch
use its settings (preset paper, mini-batches of 16) and begin with a check that both layers answer alike. Live frames of
the TTT layer and of a Moshi layer alternate, so that each finds the caches as the other leaves them. Nothing else
should run on the machine.
"""

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_moshi_ttt import MoshiTTTConfig, TTTConfig, TTTLayer
from hf_moshi_ttt.memory.naive import naive_ttt
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTDecoderLayer

SKIPPED_NAIVE = "frame by frame with autograd: only up to 750 frames"
PRESETS = ("default", "mini_batch")
FFN_PER_WIDTH = 5.5  # rows of Moshi's gated feed-forward by its width
Layer = tuple[nn.Module, Callable[[Tensor], Tensor]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1024, help="width in training (%(default)s)")
    parser.add_argument(
        "--stream-hidden-size", type=int, default=4096, help="width of live frames (%(default)s, the 7B)"
    )
    parser.add_argument("--head-dim", type=int, default=64, help="in training; live heads have 128 (%(default)s)")
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--lengths", type=int, nargs="+", default=[750, 3000, 24000])
    parser.add_argument("--ttt-lm", type=Path, help="folder with ttt.py of test-time-training/ttt-lm-pytorch")
    parser.add_argument("--ttt-lm-groups", type=int, nargs="+", default=[0, 16], help="its checkpointing (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest of so many counts (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["training", "streaming"])
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def ttt_layer(width: int, head_dim: int, depth: int, preset: str = "default") -> TTTLayer:
    layer = TTTLayer(width, width // head_dim, TTTConfig(ttt_mlp_layers=depth, preset=preset))
    nn.init.normal_(layer.o_proj.weight, std=0.02)
    return layer


def moshi_layer(width: int, head_dim: int) -> MoshiTTTDecoderLayer:
    ffn_dim, heads = int(FFN_PER_WIDTH * width), width // head_dim
    return MoshiTTTDecoderLayer(
        MoshiTTTConfig(
            hidden_size=width, num_attention_heads=heads, ffn_dim=ffn_dim, num_hidden_layers=1, ttt=None
        ), 0,
    )  # fmt: skip


def build(case: dict[str, Any]) -> Layer:
    """The layer of a case and its function of x `[1, T, D]`."""
    width, head_dim, depth = case["width"], case["head_dim"], case["depth"]
    if case["form"] == "moshi":
        moshi = moshi_layer(width, head_dim)
        return moshi, lambda x: moshi(x)[0]
    if case["form"].startswith("ttt-lm"):
        return ttt_lm_layer(case)
    layer = ttt_layer(width, head_dim, depth, case["preset"])
    return layer, partial(naive_forward, layer) if case["form"] == "naive" else lambda x: layer(x).output


def naive_forward(layer: TTTLayer, x: Tensor) -> Tensor:
    tokens = layer.learner.inner_tokens(*layer.project(x), None)
    z, _ = naive_ttt(layer.learner.inner_network(), tokens)
    return layer.o_proj(layer.post_norm(z.transpose(1, 2).flatten(-2)))


def ttt_lm_layer(case: dict[str, Any]) -> Layer:
    sys.path.insert(0, case["ttt_lm"])
    import ttt as ttt_lm

    config = ttt_lm.TTTConfig(
        hidden_size=case["width"], num_attention_heads=case["width"] // case["head_dim"],
        ttt_base_lr=1.0 if case["depth"] == 1 else 0.1, scan_checkpoint_group_size=case["groups"],
    )  # fmt: skip
    layer = (ttt_lm.TTTLinear if case["depth"] == 1 else ttt_lm.TTTMLP)(config, layer_idx=0)
    ours = ttt_layer(case["width"], case["head_dim"], case["depth"], "paper")
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj", "o_proj", "post_norm"):
            getattr(layer, name).load_state_dict(getattr(ours, name).state_dict())
        for index, (weight, bias) in enumerate(
            zip(ours.learner.inner_weights, ours.learner.inner_biases, strict=True), start=1
        ):
            getattr(layer, f"W{index}").copy_(weight)
            getattr(layer, f"b{index}").copy_(bias)
        layer.learnable_ttt_lr_weight.copy_(ours.rate_proj.weight[:, None])
        x = torch.randn(1, 160, case["width"])
        answers = layer.eval()(x, position_ids=torch.arange(160)[None])
        difference = (answers - ours(x).output).abs().max().item()
    if not difference < 1e-4:
        raise AssertionError(f"The layers should answer alike, but differ by {difference}.")
    return layer.train(), lambda x: layer(x, position_ids=torch.arange(x.shape[1])[None])


def run_case(case: dict[str, Any]) -> dict[str, float]:
    """Seconds of forward (no gradients) and of forward + backward, and the rise of the process's peak memory."""
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    layer, function = build(case)
    x = torch.randn(1, case["length"], case["width"])
    small = x[:, :256].clone().requires_grad_()
    function(small).sum().backward()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    both = min(timed(function, x, backward=True) for _ in range(case["repeats"]))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    forward = min(timed(function, x, backward=False) for _ in range(case["repeats"]))
    return {"forward_sec": forward, "both_sec": both, "peak_mib": (peak_kib - before_kib) / 1024}


def timed(function: Callable[[Tensor], Tensor], x: Tensor, backward: bool) -> float:
    leaf = x.clone().requires_grad_(backward)
    start = time.perf_counter()
    with torch.set_grad_enabled(backward):
        output = function(leaf)
        if backward:
            output.sum().backward()
    return time.perf_counter() - start


def measure(arguments: argparse.Namespace, **case: Any) -> dict[str, float] | None:
    """One case in a process of its own; None where it failed, with the reason on stderr."""
    common = {"width": arguments.hidden_size, "head_dim": arguments.head_dim, "threads": arguments.threads}
    whole = {**common, "preset": "default", "repeats": arguments.repeats, **case}
    command = [sys.executable, __file__, "--case", json.dumps(whole)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1]) if result.returncode == 0 else None


def print_row(name: str, length: int, found: dict[str, float] | None, baseline: dict[str, float] | None) -> None:
    if found is None:
        print(f"{name:<34} {length:>6}  did not run or did not fit in memory (see above)", flush=True)
        return
    cells = f"{found['forward_sec']:>9.3f} {found['both_sec']:>9.3f} {found['peak_mib']:>9.0f}"
    ratios = "" if baseline is None else f" {found['both_sec'] / baseline['both_sec']:>8.2f}"
    ratios += "" if baseline is None else f" {found['peak_mib'] / baseline['peak_mib']:>8.2f}"
    print(f"{name:<34} {length:>6} {cells}{ratios}", flush=True)


def training_table(arguments: argparse.Namespace) -> None:
    print(
        f"\nTraining, width {arguments.hidden_size}, {arguments.hidden_size // arguments.head_dim} heads, batch 1, fp32"
    )
    print(f"ratios: to the row above them that names itself the baseline; naive: {SKIPPED_NAIVE}")
    print(f"{'layer':<34} {'frames':>6} {'fwd s':>9} {'fwd+bwd':>9} {'peak MiB':>9} {'time x':>8} {'mem x':>8}")
    for length in arguments.lengths:
        moshi = measure(arguments, form="moshi", depth=0, length=length)
        print_row("Moshi layer (baseline)", length, moshi, moshi)
        for depth in arguments.depths:
            for preset in PRESETS:
                found = measure(arguments, form="fast", depth=depth, length=length, preset=preset)
                print_row(f"TTT depth {depth}, {preset}", length, found, moshi)
            if length <= 750:
                naive = measure(arguments, form="naive", depth=depth, length=length, repeats=1, preset="mini_batch")
                print_row(f"TTT depth {depth}, mini_batch, naive", length, naive, moshi)
        for depth in sorted({1, 2} & set(arguments.depths)) if arguments.ttt_lm else ():
            compare_with_ttt_lm(arguments, depth, length)


def compare_with_ttt_lm(arguments: argparse.Namespace, depth: int, length: int) -> None:
    """At their settings; groups are their scan_checkpoint_group_size, which needs whole mini-batches."""
    repeats, length = (arguments.repeats if length <= 3000 else 1), length - length % 16
    for groups in arguments.ttt_lm_groups:
        case = dict(form="ttt-lm", depth=depth, length=length, groups=groups, ttt_lm=str(arguments.ttt_lm))
        lm = measure(arguments, **case, repeats=repeats)
        print_row(f"ttt-lm depth {depth}, groups {groups} (baseline)", length, lm, lm)
        if lm is not None:
            ours = measure(arguments, form="fast", preset="paper", depth=depth, length=length)
            print_row(f"TTT depth {depth}, preset paper", length, ours, lm)


@torch.no_grad()
def streaming_table(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    width, frames = arguments.stream_hidden_size, 96
    print(
        f"\nLive frames, width {width}, {width // 128} heads, one stream, fp32; baseline: a Moshi layer of that width"
    )
    print(f"{'layer':<34} {'frame':>6} {'TTT ms':>9} {'Moshi ms':>9} {'ratio':>8}  (medians; ratio of means)")
    moshi, x = moshi_layer(width, 128), torch.randn(1, 1, width)
    for depth, preset in itertools.product(arguments.depths, PRESETS):
        layer = ttt_layer(width, 128, depth, preset)
        for first in (100, 45000):
            cache, state, times = moshi.self_attn.init_cache(1, x.dtype, x.device), layer.init_state(1), []
            for index in range(-16, frames):  # the first 16 warm up
                begin = time.perf_counter()
                _, cache, _, _ = moshi(x, cache, None, torch.tensor([first + index]))
                middle = time.perf_counter()
                state = layer(x, state).state
                times.append((time.perf_counter() - middle, middle - begin))
            ours, theirs = torch.tensor(times[16:]).unbind(1)
            ratio = ours.mean() / theirs.mean()
            cells = f"{1e3 * ours.median():>9.2f} {1e3 * theirs.median():>9.2f} {ratio:>8.2f}"
            print(f"{f'TTT depth {depth}, {preset}':<34} {first:>6} {cells}", flush=True)


def main() -> None:
    arguments = parse_arguments()
    if arguments.case:
        print(json.dumps(run_case(json.loads(arguments.case))))
        return
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, torch {torch.__version__}")
    if arguments.only != "streaming":
        training_table(arguments)
    if arguments.only != "training":
        streaming_table(arguments)


if __name__ == "__main__":
    main()
