"""How many operations a live frame, a training step and a TTT layer start, and the memory they hold; no clock, no GPU.

    python benchmarks/launches.py                     # preset small on this CPU, all cases
    python benchmarks/launches.py --meta              # the 7B at its true sizes, in bfloat16, on the meta device
    python benchmarks/launches.py --json counts.json

calls     operations that reach torch's dispatcher, views included
kernels   calls that are no views: about what a GPU starts
peak MiB  most memory that results hold at once; weights and scratch memory inside a kernel are not counted

On the meta device attention counts as one kernel, as on a GPU with flash attention. RMS norm is one kernel on a GPU and
four on a CPU.
"""

import argparse
import collections
import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from meta_device import as_a_gpu_runs, half
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_moshi_ttt import GREEDY, MoshiTTTConfig, MoshiTTTForConditionalGeneration, TTTConfig, TTTLayer

# Results that no kernel computes, besides those of views.
_FREE = {"detach", "alias", "_unsafe_view", "_reshape_alias", "lift_fresh", "empty", "empty_like", "promote_types"}
Case = Callable[[], Any]


@dataclass
class Counts:
    """What one run of a case did."""

    calls: int
    kernels: int
    peak_mib: float
    most_often: dict[str, int]


class Counter(TorchDispatchMode):
    """Counts operations, and the bytes that their results hold while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()
        self.kernels = 0
        self.peak_bytes = self._live_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known_before = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        self.kernels += not (func.is_view or name in _FREE)
        for result in tree_leaves(output):
            if isinstance(result, Tensor) and result.untyped_storage()._cdata not in known_before:
                self._hold(result.untyped_storage())
        return output

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
            weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live_bytes -= size

    def counts(self) -> Counts:
        return Counts(self.calls.total(), self.kernels, self.peak_bytes / 2**20, dict(self.calls.most_common(12)))


def count(case: Case) -> Counts:
    """Counts of a case after it has run once, so that what is made on first use is not in them."""
    case()
    with Counter() as counter:
        case()
    return counter.counts()


def model(preset: str, device: str, **changes: Any) -> MoshiTTTForConditionalGeneration:
    torch.manual_seed(0)
    with torch.device(device):
        made = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset(preset, **changes))
    return made if device == "cpu" else half(made)


def live_frame(moshi: MoshiTTTForConditionalGeneration) -> Case:
    """A frame of one stream, the model's own codes free, most likely codes taken."""
    state = moshi.eval().init_state(1, device=moshi.device)
    config = moshi.config
    codes = torch.full((1, config.num_streams), -2)
    codes[:, 1 + config.num_codebooks :] = 5
    frame = codes.to(moshi.device)
    for _ in range(moshi.config.max_delay_frames + 1):  # until no code before the stream's start is read
        state = moshi.step_with_logits(frame, state, GREEDY).state
    return lambda: moshi.step_with_logits(frame, state, GREEDY)


def training_step(moshi: MoshiTTTForConditionalGeneration, codes: Tensor) -> Case:
    """Forward, loss and backward as the Trainer asks for them; the gradients are dropped again."""

    def step() -> None:
        loss = moshi(codes=codes, labels=codes, return_logits=False).loss
        assert loss is not None
        loss.backward()
        moshi.zero_grad(set_to_none=True)

    moshi.train()
    return step


def layer_training(width: int, heads: int, batch: int, frames: int, device: str) -> Case:
    """Forward and backward of the default TTT layer alone."""
    torch.manual_seed(0)
    with torch.device(device):
        layer, x = TTTLayer(width, heads, TTTConfig()), torch.randn(batch, frames, width)
    if device != "cpu":
        half(layer)
        x = x.bfloat16()
    x.requires_grad_()

    def step() -> None:
        layer(x).output.sum().backward()
        layer.zero_grad(set_to_none=True)

    return step


def cases(meta: bool) -> Iterator[tuple[str, Case]]:
    """Name and function of each case; a model is made when its case is reached."""
    preset, device = ("moshi-7b", "meta") if meta else ("small", "cpu")
    width, heads = (4096, 32) if meta else (256, 4)
    batch, frames = (4, 750) if meta else (2, 250)
    for name, changes in (("plain", {"ttt": None}), ("with TTT", {})):
        yield f"live frame, {name}", live_frame(model(preset, device, **changes))
        trained = model(preset, device, **changes)
        codes = torch.full((batch, trained.config.num_streams, frames), 5, device=device)
        yield f"training step {batch} x {frames}, {name}", training_step(trained, codes)
    yield f"TTT layer {batch} x {frames}, forward + backward", layer_training(width, heads, batch, frames, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meta", action="store_true", help="the 7B on the meta device")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    print(f"{'case':<45} {'calls':>8} {'kernels':>8} {'peak MiB':>9}")
    with as_a_gpu_runs() if arguments.meta else nullcontext():
        for name, case in cases(arguments.meta):
            counts = found[name] = count(case)
            print(f"{name:<45} {counts.calls:>8} {counts.kernels:>8} {counts.peak_mib:>9.0f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({name: asdict(counts) for name, counts in found.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
