"""`InPlaceLayer`: In-Place TTT as a module, beside the feed-forward whose last projection is its fast weight.

The feed-forward computes W z as ever, whatever adapters or quantization W has; the layer adds S z, what was learned on
top of W (`in_place.py`). The convolution of the targets starts at zero, so a fresh layer learns nothing and adds
nothing, and its gradient is not zero. The memory is a `StreamState` that is passed in and out.

Legend: B batch, T frames, D model width, I width of the hidden activation, W width of the convolution.
"""

import math

import torch
from torch import Tensor, nn
from transformers import initialization as init

from ..configuration_moshi_ttt import TTTConfig
from ..transformer.stream_state import OwnStates, StreamState
from .in_place import InPlaceRule, InPlaceState, in_place
from .naive import MemoryDiagnostics, TTTLayerOutput, key_dependent_share
from .projections import InnerParameters, fp32, inner_dtype, require_step


class InPlaceLearner(nn.Module):
    """The targets' parameters and the memory, in float32 at least.

    Args:
        hidden_width: I, what the feed-forward's last projection reads.
    """

    def __init__(self, hidden_size: int, hidden_width: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        self.config = ttt_config
        self.hidden_width = hidden_width
        self.convolutions = InnerParameters([torch.empty(hidden_size, ttt_config.target_convolution_width)])
        self.projections = InnerParameters([torch.empty(hidden_size, hidden_size)])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A convolution of zeros before a random projection: no target, but a gradient for one."""
        init.zeros_(self.convolutions[0])
        init.normal_(self.projections[0], std=1 / math.sqrt(len(self.projections[0])))

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> InPlaceState:
        """A fresh memory of `batch_size` rows."""
        weight, inner = self.projections[0], self.hidden_width
        width, before = weight.shape[0], self.config.mini_batch_size - 1
        dtype, device = inner_dtype(weight.dtype), device or weight.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch_size, *shape, dtype=dtype, device=device)

        position = torch.zeros(batch_size, dtype=torch.int64, device=device)
        return InPlaceState(zeros(width, inner), zeros(before, inner), zeros(before, width), position)

    def rule(self, lr_scale: float = 1.0) -> InPlaceRule:
        """The rule with its parameters of now."""
        return InPlaceRule(
            taps_DW=self.convolutions()[0],
            projection_DD=self.projections()[0],
            lookahead_frames=self.config.target_lookahead_frames,
            chunk_frames=self.config.mini_batch_size,
            rate=self.config.base_lr * lr_scale,
        )

    def forward(
        self, hidden_BTI: Tensor, embedded_BTD: Tensor, state: InPlaceState | None, lr_scale: float = 1.0
    ) -> tuple[Tensor, InPlaceState]:
        """Answers `[B, T, D]`, and the state after the last frame."""
        state = self.init_state(len(hidden_BTI), hidden_BTI.device) if state is None else state
        return in_place(self.rule(lr_scale), fp32(hidden_BTI), fp32(embedded_BTD), state)


class InPlaceLayer(OwnStates, nn.Module):
    """What a feed-forward adds to its output from what it heard.

    Args:
        hidden_size: D.
        hidden_width: I, what the feed-forward's last projection reads.
    """

    def __init__(self, hidden_size: int, hidden_width: int, ttt_config: TTTConfig) -> None:
        super().__init__()
        self.config = ttt_config
        # In float32 also where models are made in another default dtype, as transformers does.
        self.learner = InPlaceLearner(hidden_size, hidden_width, ttt_config).float()

    def reset_parameters(self) -> None:
        """Initial values of every parameter; weights that came from a checkpoint keep theirs (`transformers`' rule)."""
        self.learner.reset_parameters()

    def init_state(self, batch_size: int, device: torch.device | str | None = None) -> StreamState:
        """A fresh memory of `batch_size` rows; on `"meta"` it costs nothing and `num_bytes()` still gives its size."""
        return self.learner.init_state(batch_size, device)

    def forward(
        self,
        hidden_BTI: Tensor,
        embedded_BTD: Tensor,
        state: InPlaceState | None = None,
        diagnostics: bool = False,
        inner_lr_scale: float = 1.0,
    ) -> TTTLayerOutput:
        """Learns from the frames of a call, and answers each from the chunks before its own.

        Args:
            hidden_BTI: what the feed-forward's last projection reads of each frame.
            embedded_BTD: what the model's first layer reads of it.
            state: the memory to continue from, or None for a fresh one. It is not changed.
            diagnostics: whether to return what the memory did.
            inner_lr_scale: what `base_lr` is multiplied by, to warm the steps up in training.

        Raises:
            ValueError: inputs of other shapes, a state of another number of rows or of another kind of layer, or a
                negative or infinite scale.
        """
        self._check(hidden_BTI, embedded_BTD, state)
        require_step(inner_lr_scale)
        with torch.autocast(hidden_BTI.device.type, enabled=False):
            answers, after = self.learner(hidden_BTI, embedded_BTD, state, inner_lr_scale)
            found = _diagnose(fp32(hidden_BTI), after) if diagnostics else None
            return TTTLayerOutput(answers.to(embedded_BTD.dtype), after, found)

    def output_modules(self) -> list[nn.Module]:
        """The modules that hold the weights of `output_sizes`."""
        return [self.learner.convolutions, self.learner.projections]

    def output_sizes(self) -> Tensor:
        """`[D]`, how large targets can be in each channel, for embeddings up to 1; 0 where nothing is ever answered."""
        return self.learner.projections[0].abs() @ self.learner.convolutions[0].abs().sum(1)

    def _check(self, hidden_BTI: Tensor, embedded_BTD: Tensor, state: InPlaceState | None) -> None:
        width, frames = len(self.learner.projections[0]), hidden_BTI.shape[:2]
        shapes = [*frames, self.learner.hidden_width], [*frames, width]
        if hidden_BTI.dim() != 3 or 0 in frames or (list(hidden_BTI.shape), list(embedded_BTD.shape)) != shapes:
            raise ValueError(
                f"hidden must be [B, T >= 1, {self.learner.hidden_width}] and embedded [B, T, {width}]; "
                f"got {list(hidden_BTI.shape)} and {list(embedded_BTD.shape)}."
            )
        if state is not None and state.batch_size != len(hidden_BTI):
            raise ValueError(f"hidden has {len(hidden_BTI)} rows, but the state has {state.batch_size}.")
        if state is not None:
            self.require_own(state)


@torch.no_grad()
def _diagnose(hidden_BTI: Tensor, after: InPlaceState) -> MemoryDiagnostics:
    """The memory after a call asked with the call's own activations; there is one head, and no squared error."""
    others = hidden_BTI.roll(hidden_BTI.shape[2] // 2, dims=2)
    answers, other_answers = ((x @ after.delta_weights.mT)[:, None] for x in (hidden_BTI, others))
    return MemoryDiagnostics(
        loss_initial=None,
        loss_before=None,
        loss_after=None,
        delta_ratio=None,
        key_dependent_share=key_dependent_share(answers),
        answer_norm_written=answers.norm(dim=-1).mean(2),
        answer_norm_unwritten=other_answers.norm(dim=-1).mean(2),
    )
