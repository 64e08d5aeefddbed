"""What is averaged from one log to the next: the losses by stream, frames and time, and what the memories do.

Losses are sums over targets and sums of their weights, over all batches, accumulation steps and processes, so a logged
mean is that of all targets, in whatever batch they were. A checkpoint holds the window, so a resumed run logs what a
run that was never stopped logs.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Reduce = Callable[[Tensor], Tensor]


class LogWindow:
    """The sums since the last log, of one process.

    Args:
        num_codebooks: of Moshi's voice.
    """

    def __init__(self, num_codebooks: int) -> None:
        self.names = ["text_loss", "audio_loss", "codebook_0_loss"]
        if num_codebooks > 1:
            self.names.append(f"codebooks_1_{num_codebooks - 1}_loss")
        self.clear()

    def clear(self) -> None:
        """Begins a new window."""
        self.sums: dict[str, Tensor] = {}

    def add_losses(self, losses_BKT: Tensor, weights_BKT: Tensor) -> None:
        """Adds a batch: the losses of the text, of all codebooks, of the first, and of the others, by weight."""
        losses, weights = losses_BKT.detach().double(), weights_BKT.double()
        for name, rows in zip(self.names, (slice(0, 1), slice(1, None), slice(1, 2), slice(2, None)), strict=False):
            shares = weights[:, rows]
            self.add(name, torch.stack([(losses[:, rows] * shares).sum(), shares.sum()]))

    def add(self, name: str, sum_and_weight: Tensor) -> None:
        """Adds `[sum, weight]` to a quantity."""
        self.sums[name] = self.sums[name] + sum_and_weight if name in self.sums else sum_and_weight

    def means(self, reduce: Reduce) -> dict[str, float]:
        """Every quantity's mean; those without weight are left out.

        Args:
            reduce: the sum of a tensor over the processes. All of them call this with the same names.
        """
        if not self.sums:
            return {}
        sums = reduce(torch.stack([value.double() for value in self.sums.values()])).tolist()
        return {name: total / weight for name, (total, weight) in zip(self.sums, sums, strict=True) if weight > 0}

    def tensors(self) -> dict[str, Tensor]:
        """The sums by name, to be saved."""
        return {name: value.double().cpu() for name, value in self.sums.items()}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Goes on with saved sums."""
        self.sums = {name: value.to(device) for name, value in tensors.items()}
