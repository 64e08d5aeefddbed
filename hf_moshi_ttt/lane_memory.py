"""Memory carried from one training segment to the next, one lane a batch row (truncated backpropagation through time).

The fast weights behind a segment are handed to the next one without their graph, so `W_start = W_0 + stopgrad(delta)`
and W_0 goes on being trained. A lane starts afresh where its next segment does not continue the last one. The state is
saved with the checkpoint, so a resumed run goes on exactly.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .configuration_moshi_ttt import MoshiTTTConfig
from .state import MoshiTTTState

_NOWHERE = -1


class LaneMemory:
    """The memory of the lanes of one process.

    Args:
        init_state: from a number of lanes to fresh states without a window.
        config: the model's, for checkpoints.
    """

    def __init__(self, init_state: Callable[[int], MoshiTTTState], config: MoshiTTTConfig) -> None:
        self.init_state = init_state
        self.config = config
        self.state: MoshiTTTState | None = None
        self.recording = self.next_frame = torch.empty(0, dtype=torch.int64)

    def state_for(self, recording: Tensor, start_frame: Tensor) -> MoshiTTTState:
        """The state before the segments at `start_frame` `[B]` of `recording` `[B]`."""
        if self.state is None:
            self.state = self.init_state(len(recording))
            self.recording = self.next_frame = torch.full((len(recording),), _NOWHERE)
        if self.state.batch_size != len(recording):
            raise ValueError(f"{len(recording)} segments for {self.state.batch_size} lanes: lanes need equal batches.")
        continues = (recording.cpu() == self.recording) & (start_frame.cpu() == self.next_frame)
        return self.state.reset(~continues)

    def keep(self, state: MoshiTTTState, batch: dict[str, Any]) -> None:
        """Remembers the state behind a batch."""
        self.state = state.detach()
        self.recording = batch["recording"].cpu()
        self.next_frame = batch["start_frame"].cpu() + batch["codes"].shape[2]

    def save(self, folder: str | Path, rank: int) -> None:
        """Writes the lanes of one process into a checkpoint."""
        if self.state is None:
            return
        self.state.save(Path(folder, f"lanes-{rank}.safetensors"), self.config)
        positions = {"recording": self.recording.tolist(), "next_frame": self.next_frame.tolist()}
        Path(folder, f"lanes-{rank}.json").write_text(json.dumps(positions), encoding="utf-8")

    def load(self, folder: str | Path, rank: int) -> None:
        """Goes on with the lanes of a checkpoint.

        Raises:
            ValueError: the checkpoint holds no lanes for this process.
        """
        path = Path(folder, f"lanes-{rank}.json")
        if not path.is_file():
            raise ValueError(
                f"{folder}: holds no {path.name}. It was saved without persistent_states or by fewer processes."
            )
        positions = json.loads(path.read_text(encoding="utf-8"))
        fresh = self.init_state(len(positions["recording"]))
        self.state = fresh.load(path.with_suffix(".safetensors"), self.config)
        self.recording = torch.tensor(positions["recording"])
        self.next_frame = torch.tensor(positions["next_frame"])
