"""In-Place TTT on plain tensors: fast == naive with all gradients, causal, any chunks, each row at its own position."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory import in_place as module
from hf_moshi_ttt.memory.in_place import InPlaceState, in_place, naive_in_place

from ..fixtures.in_place_cases import CHUNK, fresh_state, make_frames, make_rule


def fast(rule: Any, hidden: Tensor, embedded: Tensor) -> tuple[Tensor, Tensor]:
    answers, state = in_place(rule, hidden, embedded, fresh_state(len(hidden), hidden.dtype, rule.chunk_frames))
    return answers, state.delta_weights


def outputs_and_gradients(form: Callable[..., Any], rule: Any, frames: tuple[Tensor, Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in frames]
    answers, delta = form(rule, *leaves)
    value = answers.sin().sum() + delta.cos().sum()
    inputs = [*leaves, rule.taps_DW, rule.projection_DD]
    grads = [torch.zeros(0)] * 4
    if value.requires_grad:
        grads = list(torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True))
    return [answers, delta, *grads]


@pytest.mark.parametrize("frames", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 63])
@pytest.mark.parametrize("width_and_lookahead", [(5, 2), (1, 0), (2, 1), (5, 4), (3, 0)], ids=str)
def test_fast_is_naive_with_all_gradients(frames: int, width_and_lookahead: tuple[int, int]) -> None:
    rule = make_rule(torch.float64, *width_and_lookahead)
    found = [outputs_and_gradients(form, rule, make_frames(frames)) for form in (fast, naive_in_place)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_fast_is_naive_at_any_chunk_and_in_float32(chunk: int) -> None:
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        rule = make_rule(dtype, chunk=chunk)
        found = [outputs_and_gradients(form, rule, make_frames(29, dtype=dtype)) for form in (fast, naive_in_place)]
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_segments_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, frames = make_rule(), make_frames(63)
    whole = outputs_and_gradients(fast, rule, frames)
    monkeypatch.setattr(module, "_MIN_SEGMENT_FRAMES", 5)
    calls: list[int] = []
    segment = module._segment
    monkeypatch.setattr(module, "_segment", lambda *x: (calls.append(1), segment(*x))[1])
    for one, other in zip(whole, outputs_and_gradients(fast, rule, frames), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert len(calls) == 13


@pytest.mark.parametrize("frame", range(8, 17))
def test_future_leaves_the_past_bit_identical(frame: int) -> None:
    """A frame is heard by its chunk's write at the earliest, and so by no frame before the next chunk."""
    rule, (hidden, embedded) = make_rule(), make_frames(24)
    later = (torch.arange(24) >= frame)[:, None]
    before = in_place(rule, hidden, embedded, fresh_state())[0]
    after = in_place(rule, hidden + later, embedded + later, fresh_state())[0]
    assert torch.equal(before[:, :frame], after[:, :frame])
    heard = in_place(rule, hidden, embedded + later, fresh_state())[0]
    next_chunk = (frame // CHUNK + 1) * CHUNK
    assert torch.equal(before[:, :next_chunk], heard[:, :next_chunk])
    assert (before[:, next_chunk:] != heard[:, next_chunk:]).any(-1).all()


@pytest.mark.parametrize("chunks", [[1] * 23, [3, 1, 11, 8], [22, 1], [4, 4, 15]], ids=str)
def test_any_chunks_equal_the_whole(chunks: list[int]) -> None:
    rule, (hidden, embedded) = make_rule(), make_frames(23)
    whole, state_whole = in_place(rule, hidden, embedded, fresh_state())
    state, parts = fresh_state(), []
    for pieces in zip(hidden.split(chunks, 1), embedded.split(chunks, 1), strict=True):
        answers, state = in_place(rule, *pieces, state)
        parts.append(answers)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-10, atol=1e-10)
    for name, tensor in state.named_tensors().items():
        torch.testing.assert_close(tensor, state_whole.named_tensors()[name], rtol=1e-10, atol=1e-10)


def test_each_row_has_its_own_position() -> None:
    """Rows that joined at different frames go on together as each of them does alone."""
    rule, (hidden, embedded) = make_rule(), make_frames(30)
    heard = [0, 3, 6]
    states = [in_place(rule, hidden[i : i + 1, :n], embedded[i : i + 1, :n], fresh_state(1))[1] if n else fresh_state(1)
              for i, n in enumerate(heard)]  # fmt: skip
    together = InPlaceState(
        *(torch.cat(parts) for parts in zip(*(s.named_tensors().values() for s in states), strict=True))
    )
    assert together.position.tolist() == [0, 3, 2]
    rest = [torch.stack([x[i, n : n + 17] for i, n in enumerate(heard)]) for x in (hidden, embedded)]
    answers, after = in_place(rule, rest[0], rest[1], together)
    for row, n in enumerate(heard):
        alone, delta = naive_in_place(rule, *(x[row : row + 1, : n + 17] for x in (hidden, embedded)))
        torch.testing.assert_close(answers[row], alone[0, n:], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(after.delta_weights[row], delta[0], rtol=1e-10, atol=1e-10)


def test_an_unfinished_chunk_writes_nothing() -> None:
    rule, (hidden, embedded) = make_rule(), make_frames(2 * CHUNK)
    before = in_place(rule, hidden[:, : CHUNK - 1], embedded[:, : CHUNK - 1], fresh_state())[1]
    assert not before.delta_weights.any() and before.position.tolist() == [CHUNK - 1] * 3
    after = in_place(rule, hidden[:, CHUNK - 1 : CHUNK], embedded[:, CHUNK - 1 : CHUNK], before)[1]
    assert after.delta_weights.any() and after.position.tolist() == [0] * 3


def test_what_lies_before_the_unfinished_chunk_is_not_used() -> None:
    rule, (hidden, embedded) = make_rule(), make_frames(11)
    state = in_place(rule, hidden[:, :5], embedded[:, :5], fresh_state())[1]
    used = torch.arange(CHUNK - 1) >= CHUNK - 1 - 1  # one frame is in the chunk
    other = state.map(lambda n, x: torch.where(used[:, None], x, 7.0) if n in ("hidden", "embedded") else x)
    one, two = (in_place(rule, hidden[:, 5:], embedded[:, 5:], s) for s in (state, other))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1].delta_weights, two[1].delta_weights)
