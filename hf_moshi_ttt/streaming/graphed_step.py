"""A live frame in fixed memory, and as one CUDA graph: the host starts one graph instead of a thousand kernels.

`StaticStep` runs `step_with_logits` on buffers that never move: the codes go in by a copy, the new state is copied over
the old one. `GraphedStep` records that once and replays it; sampling is inside, and nothing is read by the host.

    step = GraphedStep(model, model.init_state(1), Sampling())
    output = step(codes_frame)  # its tensors are overwritten by the next frame
"""

from typing import Any

import torch
from torch import Tensor

from ..transformer.stream_state import require_layout
from .generation_moshi_ttt import GREEDY, MoshiTTTStepOutput, Sampling
from .state import MoshiTTTState

_WARM_UP_FRAMES = 3  # of cuBLAS, of Triton's compiler, and of the constants that are made once


class StaticStep:
    """`step_with_logits` for the streams of a state, on buffers of its own.

    Args:
        state: where the streams stand; it is copied.
    """

    def __init__(self, model: Any, state: MoshiTTTState, sampling: Sampling = GREEDY) -> None:
        self.model, self.sampling = model, sampling
        self.state = state.clone()
        self.codes_frame = torch.full_like(state.initial, -1)

    def __call__(self, codes_frame: Tensor) -> MoshiTTTStepOutput:
        """One frame of all streams: `codes_frame` `[B, K]` as in `step_with_logits`.

        Returns:
            the output, whose `state` is the buffer: `clone()` it to keep it.

        Raises:
            ValueError: as `step_with_logits`.
        """
        self.model.check_frame(codes_frame, self.state)
        self.codes_frame.copy_(codes_frame)
        return self._advance()

    def load(self, state: MoshiTTTState) -> None:
        """Copies another state of the same shapes into the buffer, for instance with reset rows.

        Raises:
            ValueError: a state of other rows or of another configuration.
        """
        if state.batch_size != self.state.batch_size:
            raise ValueError(f"The state has {state.batch_size} rows, but {self.state.batch_size} are stepped here.")
        require_layout(state, self.state.layout())
        _copy(state, self.state)

    @torch.no_grad()
    def _advance(self) -> MoshiTTTStepOutput:
        output = self.model.step_with_logits(self.codes_frame, self.state, self.sampling)
        assert output.state is not None
        _copy(output.state, self.state)
        output.state = self.state
        return output


class GraphedStep(StaticStep):
    """The same, replayed as one CUDA graph.

    Raises:
        ValueError: a state that is not on CUDA.
    """

    def __init__(self, model: Any, state: MoshiTTTState, sampling: Sampling = GREEDY) -> None:
        if not state.frames.is_cuda:
            raise ValueError(f"A CUDA graph needs CUDA, but the state is on {state.frames.device}. Use StaticStep.")
        super().__init__(model, state, sampling)
        self._warm_up()
        self.load(state)
        self.graph = torch.cuda.CUDAGraph()
        for generator in _generators(sampling):
            self.graph.register_generator_state(generator)
        with torch.cuda.graph(self.graph):
            self.output = super()._advance()
        self.load(state)

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_FRAMES):
                super()._advance()
        torch.cuda.current_stream().wait_stream(stream)

    def _advance(self) -> MoshiTTTStepOutput:
        self.graph.replay()
        return self.output


def _generators(sampling: Sampling) -> list[torch.Generator]:
    given = sampling.generator
    return [given] if isinstance(given, torch.Generator) else list(given or ())


def _copy(source: MoshiTTTState, target: MoshiTTTState) -> None:
    """Tensors that a step has written in place are not copied onto themselves."""
    held = target.named_tensors()
    for name, tensor in source.named_tensors().items():
        if tensor.data_ptr() != held[name].data_ptr():
            held[name].copy_(tensor)
