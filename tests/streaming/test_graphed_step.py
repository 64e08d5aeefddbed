"""A frame in fixed memory equals `step_with_logits`, the host reads nothing of a frame, and CUDA graphs replay it."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_moshi_ttt.special_ids import FREE_ID
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY, Sampling
from hf_moshi_ttt.streaming.graphed_step import GraphedStep, StaticStep

from ..conftest import random_codes

MakeModel = Callable[..., Any]


def frames_of(model: Any, count: int) -> list[Tensor]:
    """Frames of two streams whose own codes are free."""
    codes = random_codes(model.config, 2, count)
    codes[:, : 1 + model.config.num_codebooks] = FREE_ID
    return list(codes.unbind(2))


def seeded() -> Sampling:
    return Sampling(generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("make_sampling", [lambda: GREEDY, seeded], ids=["greedy", "sampled"])
def test_fixed_buffers_give_what_the_step_gives(make_model: MakeModel, make_sampling: Any) -> None:
    model = make_model()
    state, sampling = model.init_state(2), make_sampling()
    step = StaticStep(model, state, make_sampling())
    held = {name: tensor.data_ptr() for name, tensor in step.state.named_tensors().items()}
    for frame in frames_of(model, 40):  # further than the attention window
        own, plain = step(frame), model.step_with_logits(frame, state, sampling)
        state = plain.state
        assert torch.equal(own.codes, plain.codes) and torch.equal(own.text_logits, plain.text_logits)
    for name, tensor in step.state.named_tensors().items():
        assert torch.equal(tensor, state.named_tensors()[name]) and tensor.data_ptr() == held[name]


def test_the_given_state_is_left_alone_and_another_can_be_loaded(make_model: MakeModel) -> None:
    model = make_model()
    state, frames = model.init_state(2), frames_of(model, 3)
    step, before = StaticStep(model, state), state.clone()
    first = [step(frame).codes.clone() for frame in frames]
    assert all(torch.equal(x, before.named_tensors()[name]) for name, x in state.named_tensors().items())
    step.load(state)
    assert all(torch.equal(step(frame).codes, codes) for frame, codes in zip(frames, first, strict=True))


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (1, {}, "The state has 1 rows, but 2 are stepped here"),
        (2, {"sliding_window": 5}, "belongs to another layer or c"),
    ],
)
def test_states_of_other_shapes_are_not_loaded(make_model: MakeModel, rows: int, changes: dict, message: str) -> None:
    """A single row would be copied over all of them."""
    model = make_model()
    step = StaticStep(model, model.init_state(2))
    with pytest.raises(ValueError, match=message):
        step.load(make_model(**changes).init_state(rows))


def test_frames_are_checked(make_model: MakeModel) -> None:
    model = make_model()
    step = StaticStep(model, model.init_state(2))
    with pytest.raises(ValueError, match="codes_frame must be int64"):
        step(torch.zeros(2, 3, dtype=torch.int64))


def test_graphs_need_cuda(make_model: MakeModel) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="A CUDA graph needs CUDA, but the state is on cpu. Use StaticStep"):
        GraphedStep(model, model.init_state(1))


class _Names(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(text_pad_bias=1.0)], ids=["greedy", "sampled"])
def test_no_value_of_a_frame_is_read_by_the_host(
    make_model: MakeModel, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, where branches for GPUs are taken: no reads, no copies from the host, no waiting."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which knows no meta device
    model = make_model().to("meta")
    state, frame = model.init_state(2, device="meta"), torch.zeros(2, 17, dtype=torch.int64, device="meta")
    step = StaticStep(model, state, sampling)
    step(frame)  # makes the constants
    with _Names() as found:
        step(frame)
    waits = {
        "_local_scalar_dense",
        "item",
        "nonzero",
        "multinomial",
        "is_nonzero",
        "equal",
        "lift_fresh",
        "masked_select",
    }
    assert not waits & found.counts.keys()
    with _Names() as found:  # the counter sees what it looks for
        torch.ones(3)[0].item()
    assert "_local_scalar_dense" in found.counts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_graph_equals_the_step(make_model: MakeModel) -> None:
    model = make_model().cuda()
    state = model.init_state(2)
    step = GraphedStep(model, state)
    for frame in frames_of(model, 40):
        own, plain = step(frame.cuda()), model.step_with_logits(frame.cuda(), state)
        state = plain.state
        assert torch.equal(own.codes, plain.codes) and torch.equal(own.text_logits, plain.text_logits)
