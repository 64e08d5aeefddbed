"""Memory carried from one training segment to the next, one lane a batch row (truncated backpropagation through time).

The memory after a segment is handed to the next one without its graph, so `W_start = W_0 + stopgrad(delta)` and W_0 is
still trained. A lane is reset where its next segment does not continue the last one, and with a given probability also
where it does, so that a model meets fresh memories anywhere in a recording. The state is saved with the checkpoint, so
a resumed run continues exactly.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..configuration_moshi_ttt import MoshiTTTConfig
from ..streaming.state import MoshiTTTState

_NOWHERE = -1


class Lanes(NamedTuple):
    """The state of all lanes.

    Args:
        state: what each lane remembers.
        recording, next_frame: `[B]`, the segment that would continue it.
        batches: how many batches the lanes have walked.
    """

    state: MoshiTTTState
    recording: Tensor
    next_frame: Tensor
    batches: int


class LaneMemory:
    """The memory of the lanes of one process.

    Args:
        init_state: from a number of lanes to fresh states.
        config: the model's, for checkpoints.
        reset_probability: of a lane, at every segment.
        seed: of these draws, with the `rank` of the process.
    """

    def __init__(
        self,
        init_state: Callable[[int], MoshiTTTState],
        config: MoshiTTTConfig,
        reset_probability: float = 0.0,
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        self.init_state = init_state
        self.config = config
        self.reset_probability = reset_probability
        self.seed, self.rank = seed, rank
        self.lanes: Lanes | None = None

    def state_for(self, batch: Mapping[str, Tensor]) -> MoshiTTTState:
        """The state before the segments of a batch: `recording`, `start_frame` and `starts_recording`, each `[B]`."""
        recording, start = batch["recording"].cpu(), batch["start_frame"].cpu()
        if self.lanes is None:
            nowhere = torch.full((len(recording),), _NOWHERE)
            self.lanes = Lanes(self.init_state(len(recording)), nowhere, nowhere, 0)
        state, last_recording, next_frame, batches = self.lanes
        if state.batch_size != len(recording):
            raise ValueError(f"{len(recording)} segments for {state.batch_size} lanes: lanes need equal batches.")
        continues = (recording == last_recording) & (start == next_frame) & ~batch["starts_recording"].cpu()
        draws = np.random.default_rng((self.seed, self.rank, batches)).random(len(recording))
        return state.reset(~continues | torch.from_numpy(draws < self.reset_probability))

    def keep(self, state: MoshiTTTState, batch: Mapping[str, Tensor]) -> None:
        """Remembers the state after a batch."""
        batches = self.lanes.batches + 1 if self.lanes else 1
        next_frame = batch["start_frame"].cpu() + batch["codes"].shape[2]
        self.lanes = Lanes(state.detach(), batch["recording"].cpu(), next_frame, batches)

    def save(self, folder: str | Path) -> None:
        """Writes the lanes of this process into a checkpoint."""
        if self.lanes is None:
            return
        state, recording, next_frame, batches = self.lanes
        state.save(self._path(folder, "safetensors"), self.config)
        positions = {"recording": recording.tolist(), "next_frame": next_frame.tolist(), "batches": batches}
        self._path(folder, "json").write_text(json.dumps(positions), encoding="utf-8")

    def load(self, folder: str | Path) -> None:
        """Goes on with the lanes of a checkpoint.

        Raises:
            ValueError: the checkpoint holds no lanes for this process.
        """
        path = self._path(folder, "json")
        if not path.is_file():
            raise ValueError(
                f"{folder}: holds no {path.name}. It was saved without carried memory or by fewer processes."
            )
        positions: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        recording, next_frame = (torch.tensor(positions[key]) for key in ("recording", "next_frame"))
        state = self.init_state(len(recording)).load(path.with_suffix(".safetensors"), self.config)
        self.lanes = Lanes(state, recording, next_frame, positions["batches"])

    def _path(self, folder: str | Path, suffix: str) -> Path:
        return Path(folder, f"lanes-{self.rank}.{suffix}")
