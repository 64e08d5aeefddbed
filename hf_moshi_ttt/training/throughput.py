"""How fast a run is: frames and seconds of audio a second, the time left and, on GPUs, memory and MFU.

MFU is the fraction of a known GPU's peak compute that the weights' arithmetic takes.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.audio import sec_from_frames

# Dense bfloat16 peaks in FLOP/s, from NVIDIA's data sheets; the first name that a device's name contains counts.
PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "A40": 150e12, "A10": 125e12, "RTX 4090": 165e12,
}  # fmt: skip


def flops_per_frame(model: nn.Module) -> float:
    """FLOPs of forward and backward for a frame: 2 a weight forward, 2 for its input, 2 for itself where trained.

    Embeddings cost nothing; attention scores and inner steps are left out, as is what checkpointing computes again.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    named = (pair for pair in model.named_parameters() if ".original_module." not in pair[0])  # what adapters replace
    weights = [parameter for _, parameter in named if id(parameter) not in tables]
    return float(sum(parameter.numel() * (6 if parameter.requires_grad else 4) for parameter in weights))


def peak_flops(device: torch.device) -> float | None:
    """The bfloat16 peak of a GPU, or None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


class Throughput:
    """Frames and time since the last log.

    Args:
        flops: `flops_per_frame` of the model.
    """

    def __init__(self, flops: float, device: torch.device) -> None:
        self.flops, self.peak = flops, peak_flops(device)
        self.start()

    def start(self) -> None:
        """Begins to measure."""
        self.began, self.frames, self.steps = time.monotonic(), torch.zeros((), dtype=torch.int64), 0

    def begin_step(self) -> None:
        """Counts a step."""
        self.steps += 1

    def add(self, lengths_B: Tensor) -> None:
        """Adds the frames of a batch, padding left out."""
        self.frames = self.frames + lengths_B.sum()

    def report(
        self, reduce: Callable[[Tensor], Tensor], device: torch.device, processes: int, steps_left: int
    ) -> dict[str, Any]:
        """The speed since the last report, of all processes together, and what it says of the time left.

        `gpu_memory_gib` is the most that this process has had allocated so far.
        """
        frames = float(reduce(torch.as_tensor(self.frames, dtype=torch.float64, device=device)))
        seconds, steps = time.monotonic() - self.began, self.steps
        per_sec = frames / seconds
        self.start()
        speed = {"frames_per_second": per_sec, "audio_seconds_per_second": sec_from_frames(per_sec)}
        if steps:
            speed["seconds_left"] = steps_left * seconds / steps
        if device.type == "cuda":
            speed["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        return speed if self.peak is None else {**speed, "mfu": self.flops * per_sec / (self.peak * processes)}
