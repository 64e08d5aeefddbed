"""`EndToEndMoshi`: TTT-E2E, a Moshi that takes gradient steps on its own next-frame loss while it listens.

Tandon et al. 2025, "End-to-End Test-Time Training for Long Context" (arXiv 2512.23675). The last quarter of the
temporal layers have a second feed-forward (`fast_feed_forward.py`). After each chunk of C frames its weights take one
step of gradient descent on the mean loss of that chunk, row by row; the next chunk is read with the new ones. Training
follows these steps (second order), so that the weights start where learning helps. docs/memory.md has the equations.

It is a model to compare with, made and trained in one process, in float32 or float64; it is not saved as a checkpoint,
does not generate, and does not run live.

Legend: B batch, K streams, Q Moshi's codebooks, T frames, C frames of a chunk, V vocabulary or codebook size.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.utils import ModelOutput

from ..memory.projections import require_step
from ..modeling_moshi_ttt import MoshiTTTForConditionalGeneration, MoshiTTTOutput
from ..streaming.state import MoshiTTTState
from ..transformer.losses import code_losses, mask_unpredicted, target_weights, weighted_mean
from ..transformer.row_product import is_cast
from ..transformer.stream_state import OwnStates
from .configuration_end_to_end import EndToEndConfig
from .end_to_end_state import EndToEndState
from .fast_feed_forward import FastGatedMLP, fast_weight_names
from .inner_step import row_losses, row_steps
from .joined_pieces import JoinedPieces

_MISSING = ("save_pretrained", "push_to_hub", "generate", "step_with_logits", "gradient_checkpointing_enable")


@dataclass
class InnerStep:
    """What an inner step did: the loss `[B]` of each row's chunk, and the norm `[B]` of its gradient before it is cut.

    Both are NaN for rows that took no step.
    """

    losses_B: Tensor
    norms_B: Tensor


@dataclass
class EndToEndOutput(ModelOutput):
    """What an `EndToEndMoshi` returns; the other fields are those of `MoshiTTTOutput`.

    Args:
        state: the state after the last frame, where one was given.
        diagnostics: the inner steps, in order, where asked for.
    """

    loss: Tensor | None = None
    text_loss: Tensor | None = None
    audio_loss: Tensor | None = None
    losses: Tensor | None = None
    text_logits: Tensor | None = None
    audio_logits: Tensor | None = None
    late_audio_logits: Tensor | None = None
    state: EndToEndState | None = None
    diagnostics: tuple[InnerStep, ...] | None = None


class EndToEndMoshi(OwnStates, nn.Module):
    """A plain Moshi with fast feed-forwards in its last layers."""

    def __init__(self, config: EndToEndConfig) -> None:
        super().__init__()
        self.config = config
        self.model = MoshiTTTForConditionalGeneration(config)
        for index in config.fast_layer_indices:
            layer: Any = self.model.model.layers[index]
            layer.mlp = FastGatedMLP.beside(layer.mlp)
        self.fast_names = fast_weight_names(self.model)

    def __getattr__(self, name: str) -> Any:
        if name in _MISSING:
            raise AttributeError(
                f"TTT-E2E is here to be compared with, and has no {name}. Train and score it in one process "
                "(hf-moshi-ttt recall --arms e2e), or use a learner of the ttt section."
            )
        return super().__getattr__(name)

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return self.model.device

    def fast_weights(self) -> list[nn.Parameter]:
        """The trained start of every stream's fast weights, in order."""
        return [self.model.get_parameter(name) for name in self.fast_names]

    def init_state(
        self, batch_size: int, window: bool = True, device: torch.device | str | None = None
    ) -> EndToEndState:
        """The state of `batch_size` fresh streams.

        Raises:
            ValueError: without a window; a chunk may be read in pieces, which need it.
        """
        if not window:
            raise ValueError("window=False, but TTT-E2E reads chunks after the window before them: carry it too.")
        stream, chunk_start = (self.model.init_state(batch_size, device=device) for _ in range(2))
        codes = stream.initial.new_zeros((*stream.initial.shape, self.config.chunk_frames))
        deltas = (codes.new_zeros((batch_size, *start.shape), dtype=start.dtype) for start in self.fast_weights())
        return EndToEndState(tuple(deltas), stream, chunk_start, codes, torch.zeros_like(stream.frames))

    def forward(
        self,
        codes: Tensor,
        labels: Tensor | None = None,
        state: EndToEndState | None = None,
        diagnostics: bool = False,
        inner_lr_scale: float = 1.0,
        return_logits: bool = True,
    ) -> EndToEndOutput:
        """Teacher-forced logits of all frames, alone or as the next frames of a stream.

        The inner steps learn from the codes, whatever the labels are. They are taken without gradients enabled too;
        then nothing is kept of them but the state.

        Args:
            codes, labels: `[B, K, T]`, as those of the plain model.
            state: the stream that the codes continue, any number of frames at a time. Go on with the returned one.
            diagnostics: whether to return what the inner steps did.
            inner_lr_scale: what `inner_lr` is multiplied by.
            return_logits: whether to return logits beside the losses.

        Raises:
            ValueError: wrong shapes or codes, a state of another model, a negative or infinite scale, or a dtype, mode
                or sharding in which no inner step can be taken.
        """
        self._require_what_works(codes, labels)
        require_step(inner_lr_scale)
        if state is not None:
            self.require_own(state)
        now = self.init_state(len(codes)) if state is None else state
        rate = self.config.inner_lr * inner_lr_scale
        pieces, steps = JoinedPieces(self.config.max_delay_frames), []
        parts = codes.split(self._lengths(now.position.tolist(), codes.shape[2]), dim=2)
        if state is None:
            *parts, last = parts  # nobody reads on, so it needs no step
        for part in parts:
            piece, now, step = self._read(part, now, rate)
            pieces.add(piece)
            steps += [step] if step else []
        if state is None:
            pieces.add(self._call(last, self._fast(now), now.stream if parts else None))
        text, audio, late = pieces.joined()
        output = self._losses(text, audio, labels) if labels is not None else EndToEndOutput()
        if return_logits:
            output.text_logits, output.audio_logits = text, audio
            output.late_audio_logits = None if state is None else late
        output.state = None if state is None else now
        output.diagnostics = tuple(steps) if diagnostics else None
        return output

    def _require_what_works(self, codes: Tensor, labels: Tensor | None) -> None:
        if codes.dim() != 3 or (labels is not None and labels.shape != codes.shape):
            shapes = " and ".join(str(list(given.shape)) for given in (codes, labels) if given is not None)
            raise ValueError(f"codes and labels must both be [B, K, T]; got {shapes}.")
        start = self.fast_weights()[0]
        if isinstance(start, DTensor):
            raise ValueError("FSDP has sharded TTT-E2E, whose fast weights belong to rows: train it on one device.")
        if start.dtype not in (torch.float32, torch.float64) or is_cast(start):
            raise ValueError(
                f"TTT-E2E takes its steps in float32 or float64, but its weights are {start.dtype} and autocast is "
                f"{'on' if is_cast(start) else 'off'}: use model.float(), and neither bf16 nor fp16."
            )
        if torch.is_inference_mode_enabled():
            raise ValueError("TTT-E2E takes gradients while it reads: use torch.no_grad(), not inference mode.")

    def _lengths(self, positions: Sequence[int], frames: int) -> list[int]:
        """Of pieces of `frames` frames, each of which ends where a row's chunk does; one piece without inner steps."""
        size = self.config.chunk_frames if self.config.inner_lr else frames
        borders = {border for position in positions for border in range(size - position, frames, size)}
        return [last - first for first, last in pairwise([0, *sorted(borders), frames])]

    def _fast(self, now: EndToEndState) -> list[Tensor]:
        """The fast weights `[B, ...]` of each row."""
        return [start + delta for start, delta in zip(self.fast_weights(), now.deltas, strict=True)]

    def _read(
        self, codes: Tensor, now: EndToEndState, rate: float
    ) -> tuple[MoshiTTTOutput, EndToEndState, InnerStep | None]:
        """A piece that reaches beyond no row's chunk; the rows whose chunk it ends take their step."""
        size, fast = self.config.chunk_frames, self._fast(now)
        if not self.config.inner_lr:
            piece = self._call(codes, fast, now.stream)
            return piece, replace(now, stream=_stream_of(piece)), None
        if codes.shape[2] == size:  # so all rows stand at the start of a chunk: one call reads and learns
            piece, updates, step = self._learn(codes, fast, now.stream, rate)
            now = now.heard(codes, _stream_of(piece))
            return piece, now.learned(now.position == size, updates), step
        piece = self._call(codes, fast, now.stream)
        now = now.heard(codes, _stream_of(piece))
        ends_B = now.position == size
        if not ends_B.any():
            return piece, now, None
        _, updates, step = self._learn(now.codes, fast, now.chunk_start, rate)
        values = (step.losses_B, step.norms_B)
        return piece, now.learned(ends_B, updates), InnerStep(*(value.where(ends_B, torch.nan) for value in values))

    def _learn(
        self, codes: Tensor, fast: list[Tensor], stream: MoshiTTTState, rate: float
    ) -> tuple[MoshiTTTOutput, tuple[Tensor, ...], InnerStep]:
        """A whole chunk, and what its step takes off the fast weights."""
        trains, config = torch.is_grad_enabled(), self.config
        leaves = [weight if weight.requires_grad and trains else weight.detach().requires_grad_() for weight in fast]
        with torch.enable_grad(), _twice_differentiable(trains and config.second_order):
            piece = self._call(codes, leaves, stream, frozen=not trains)
            assert piece.losses is not None, "the codes were its labels"
            losses_B = row_losses(piece.losses, codes, config)
            second_order = trains and config.second_order
            updates, norms_B = row_steps(losses_B, leaves, config.max_inner_norm, second_order, retain_graph=trains)
        step = InnerStep(losses_B.detach(), norms_B)
        if not trains:
            piece = _detached(piece)
        return piece, tuple(rate * update for update in updates), step

    def _call(
        self, codes: Tensor, fast: list[Tensor], stream: MoshiTTTState | None, frozen: bool = False
    ) -> MoshiTTTOutput:
        """The plain model with fast weights `[B, ...]` of each row; `frozen` leaves the others out of the graph."""
        weights: dict[str, Tensor] = {}
        if frozen:
            weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
        weights |= dict(zip(self.fast_names, fast, strict=True))
        found: MoshiTTTOutput = functional_call(
            self.model, weights, kwargs={"codes": codes, "labels": codes, "state": stream}
        )
        return found

    def _losses(self, text_logits: Tensor, audio_logits: Tensor, labels: Tensor) -> EndToEndOutput:
        """As the plain model's."""
        config = self.config
        own = mask_unpredicted(labels[:, 1 : 1 + config.num_codebooks], config)
        text_losses = code_losses(text_logits, labels[:, 0])[:, None]
        losses = torch.cat([text_losses, code_losses(audio_logits.nan_to_num(), own)], dim=1)
        weights = target_weights(labels, config)
        text_loss, audio_loss = (
            weighted_mean(losses[:, rows], weights[:, rows]) for rows in (slice(1), slice(1, None))
        )
        loss = config.text_loss_weight * text_loss + audio_loss
        return EndToEndOutput(loss=loss, text_loss=text_loss, audio_loss=audio_loss, losses=losses)


def _stream_of(piece: MoshiTTTOutput) -> MoshiTTTState:
    assert piece.state is not None, "it continues a stream"
    return piece.state


def _twice_differentiable(wanted: bool) -> AbstractContextManager[Any]:
    """Attention whose derivative has a derivative; torch's fused kernels have none."""
    return sdpa_kernel([SDPBackend.MATH]) if wanted else nullcontext()


def _detached(piece: MoshiTTTOutput) -> MoshiTTTOutput:
    logits = {
        name: value.detach()
        for name in ("text_logits", "audio_logits", "late_audio_logits")
        if (value := getattr(piece, name)) is not None
    }
    return MoshiTTTOutput(**logits, state=_stream_of(piece).detach())
