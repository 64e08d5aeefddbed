"""Losses of many recordings: in batches, shared by several processes, without those that an earlier run finished."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm.auto import tqdm

from ..special_ids import NO_INPUT_ID
from .kept_losses import KeptLosses, model_sha256
from .long_context_settings import LongContextSettings
from .streamed_losses import BlockReader, losses_by_frame

if TYPE_CHECKING:
    from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration
    from ..streaming.state import MoshiTTTState


class RecordingReader:
    """Reads recordings with one model under one setting, and reports how."""

    def __init__(
        self, model: "MoshiTTTForConditionalGeneration", settings: LongContextSettings, progress: bool
    ) -> None:
        self.model = model
        self.settings = settings
        self.progress = progress and PartialState().is_local_main_process
        self.is_chain = settings.memory == "no_reset"
        self.report: dict[str, Any] = {"mode": settings.mode, "memory": settings.memory}
        self.passes = 0
        self.check: dict[str, Any] | None = None

    def losses(self, framed: Sequence[np.ndarray], keep_in: str | Path | None) -> list[np.ndarray]:
        """Losses `[Q, T]` of all recordings, on every process.

        Args:
            framed: `[K, T]` each, all rows; text -2 where the model chooses it.
            keep_in: folder of losses of finished recordings, or None.
        """
        kept = KeptLosses(keep_in, self._recipe() if keep_in is not None else "")
        found = self._finished(kept, framed)
        batches = self._batches([i for i in range(len(framed)) if i not in found], framed)
        processes = PartialState()
        is_shared = processes.num_processes > 1 and not self._every_process_reads_all()
        mine = batches[processes.process_index :: processes.num_processes] if is_shared else batches
        frames = sum(framed[i].shape[1] for batch in mine for i in batch)
        self.report |= {"processes": processes.num_processes, "kept_recordings": len(found), "frames_read": frames}
        started = time.monotonic()
        with tqdm(total=frames, desc="evaluate", unit="frame", disable=not self.progress) as bar, _memory_remedy():
            state = None
            for batch in mine:
                losses, state = self._read([framed[i] for i in batch], state, bar)
                for i, losses_QT in zip(batch, losses, strict=True):
                    found[i] = losses_QT
                    kept.write(framed[i], losses_QT)
                if self.check is not None and batch is mine[0]:
                    kept.write_check(framed, self.check)
        self.report["seconds"] = time.monotonic() - started
        self._agree_on_check(kept, framed)
        if is_shared:
            found = {i: losses for part in gather_object([found]) for i, losses in part.items()}
        return [found[i] for i in range(len(framed))]

    def _recipe(self) -> str:
        """What losses depend on besides the codes."""
        way = [self.settings.mode, self.settings.memory, str(self.model.dtype)]
        return f"{model_sha256(self.model, self.model.config.state_values())} {way}"

    def _finished(self, kept: KeptLosses, framed: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Recordings that all processes find finished; with `no_reset`, all of them or none."""
        found = {i: losses for i, codes in enumerate(framed) if (losses := kept.read(codes)) is not None}
        everywhere = set(found).intersection(*gather_object([set(found)]))
        if self.is_chain and len(everywhere) < len(framed):
            return {}
        return {i: found[i] for i in everywhere}

    def _agree_on_check(self, kept: KeptLosses, framed: Sequence[np.ndarray]) -> None:
        """Takes the largest difference of all processes, or the one kept by the run that read the recordings."""
        checks = [check for check in gather_object([self.check]) if check is not None]
        if checks:
            self.check = max(checks, key=lambda check: check["max_difference_nats"])
            if PartialState().is_main_process:
                kept.write_check(framed, self.check)
        elif self.settings.mode == "block" and self.settings.check_frames:
            self.check = kept.read_check(framed)

    def _every_process_reads_all(self) -> bool:
        """Whether all processes run the same batches: weights are sharded, or memory continues over recordings."""
        return self.is_chain or any(isinstance(weight, DTensor) for weight in self.model.parameters())

    def _batches(self, indices: list[int], framed: Sequence[np.ndarray]) -> list[list[int]]:
        """Batches of recordings of similar length, the longest first; one by one with `no_reset`."""
        if self.is_chain:
            return [[i] for i in indices]
        order = sorted(indices, key=lambda i: -framed[i].shape[1])
        size = self.settings.batch_size
        return [order[first : first + size] for first in range(0, len(order), size)]

    def _read(
        self, framed: Sequence[np.ndarray], before: "MoshiTTTState | None", bar: Any
    ) -> "tuple[list[np.ndarray], MoshiTTTState]":
        """Losses of one batch and the state after it."""
        lengths = [codes.shape[1] for codes in framed]
        codes_BKT = torch.full((len(framed), self.model.config.num_streams, max(lengths)), NO_INPUT_ID)
        for row, codes_KT in enumerate(framed):
            codes_BKT[row, :, : lengths[row]] = torch.from_numpy(codes_KT)
        codes_BKT = codes_BKT.to(self.model.device)
        state = self.model.init_state(len(framed))
        if before is not None and self.is_chain:
            state = replace(state, memory=before.memory)
        read = self._by_frame if self.settings.mode == "stream" else self._in_blocks
        losses_BQT, state = read(codes_BKT, lengths, state, _Progress(bar, lengths).advance)
        losses = losses_BQT.cpu().numpy()
        delays = self.model.config.delays[1 : 1 + losses.shape[1]]
        return [_own_part(losses[row], length, delays) for row, length in enumerate(lengths)], state

    def _by_frame(
        self, codes_BKT: Tensor, lengths: list[int], state: "MoshiTTTState", progress: Callable[[int], None]
    ) -> Any:
        self.passes += codes_BKT.shape[2]
        return losses_by_frame(self.model, codes_BKT, state, progress)

    def _in_blocks(
        self, codes_BKT: Tensor, lengths: list[int], state: "MoshiTTTState", progress: Callable[[int], None]
    ) -> Any:
        """In the first batch, some frames of the last blocks are read again one by one."""
        length, count = lengths[0], self.settings.check_frames
        kept_from = None
        if count and self.check is None:
            kept_from = max(0, length - count - self.settings.block_frames)
        reader = BlockReader(self.model, self.settings.block_frames, kept_from)
        losses, state = reader.losses(codes_BKT, state, progress, lengths)
        self.passes += reader.passes
        if reader.kept is not None:
            first, kept_state = reader.kept
            rows, span = slice(kept_state.batch_size), slice(first, min(first + count, length))
            singly, _ = losses_by_frame(self.model, codes_BKT[rows, :, span], kept_state, lambda _: None)
            differences = (singly - losses[rows, :, span]).abs()
            worst = float(differences[differences.isfinite()].max())
            self.check = {"first_frame": first, "frames": span.stop - first, "max_difference_nats": worst}
        return losses, state

    def record(self) -> dict[str, Any]:
        """What this process read, and how: counts, passes, time and the check of blocks against single frames."""
        report = {**self.report, "passes": self.passes}
        return report if self.check is None else {**report, "block_check": self.check}


class _Progress:
    """A bar that counts frames of recordings, not of the padding after the shorter ones."""

    def __init__(self, bar: Any, lengths: Sequence[int]) -> None:
        self.bar = bar
        self.lengths = lengths
        self.frame = 0

    def advance(self, frames: int) -> None:
        """Moves all rows on."""
        before, self.frame = self.frame, self.frame + frames
        self.bar.update(sum(min(length, self.frame) - min(length, before) for length in self.lengths))


@contextmanager
def _memory_remedy() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise torch.OutOfMemoryError(
            f"{error}\nThe evaluation needs memory for batch_size recordings and block_frames frames at once, "
            "independent of their length: halve batch_size, then block_frames (no loss depends on them)."
        ) from error


def _own_part(losses_QT: np.ndarray, length: int, delays: Sequence[int]) -> np.ndarray:
    """A recording's losses without padding, NaN where its end leaves a delayed codebook without prediction."""
    losses_QT = losses_QT[:, :length].copy()
    for row, delay in enumerate(delays):
        if delay:
            losses_QT[row, -delay:] = np.nan
    return losses_QT
