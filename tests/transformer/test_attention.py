"""Sliding-window attention against an explicit mask, whole and streamed, and its shared parts."""

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.transformer import attention
from hf_moshi_ttt.transformer.attention import GatedMLP, RMSNorm, SlidingWindowAttention, plus_mlp
from hf_moshi_ttt.transformer.rope import apply_rope, rope_phases

WINDOW = 5


def make_attention() -> SlidingWindowAttention:
    torch.manual_seed(0)
    return SlidingWindowAttention(hidden_size=16, num_heads=2, window=WINDOW, rope_theta=10000.0).double()


def masked_attention(module: SlidingWindowAttention, x: Tensor) -> Tensor:
    """The definition: softmax over the keys at p - W + 1 .. p."""
    length = x.shape[1]
    q, k, v = module.qkv_proj(x).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    phases = rope_phases(torch.arange(length)[None], 8, 10000.0)
    scores = apply_rope(q, phases) @ apply_rope(k, phases).mT / 8**0.5
    distance = torch.arange(length)[:, None] - torch.arange(length)
    scores = scores.masked_fill((distance < 0) | (distance >= WINDOW), -torch.inf)
    return module.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


@torch.no_grad()
@pytest.mark.parametrize("length", [1, WINDOW, WINDOW + 1, 127, 300])
def test_whole_equals_the_definition(length: int) -> None:
    module, x = make_attention(), torch.randn(2, length, 16, dtype=torch.float64)
    torch.testing.assert_close(module(x)[0], masked_attention(module, x), rtol=1e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[1] * 40, [3, 37], [5, 5, 30], [2, 1, 1, 9, 27]], ids=str)
def test_stream_equals_the_definition(chunks: list[int]) -> None:
    module, x = make_attention(), torch.randn(2, 40, 16, dtype=torch.float64)
    cache, frames, outputs = module.init_cache(2, torch.float64, "cpu"), torch.zeros(2, dtype=torch.int64), []
    for piece in x.split(chunks, dim=1):
        out, cache = module(piece, cache, frames)
        frames = frames + piece.shape[1]
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 1), masked_attention(module, x), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_a_stream_of_rows_equals_the_definition() -> None:
    module, x = make_attention(), torch.randn(1, 40, 16, dtype=torch.float64)
    cache, outputs = module.init_cache(1, torch.float64, "cpu"), []
    for index in range(40):
        frame, frames = x[:, index : index + 1], torch.tensor([index])
        out, cache = module(frame.view(-1), cache, frames, module.positions(frame, frames))
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs)[None], masked_attention(module, x), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_rows_at_different_positions() -> None:
    module, x = make_attention(), torch.randn(2, 30, 16, dtype=torch.float64)
    _, cache = module(x[:, :13], module.init_cache(2, torch.float64, "cpu"), torch.zeros(2, dtype=torch.int64))
    for part in (cache.keys, cache.values):
        part[1] = 0  # row 1 is fresh
    frames = torch.tensor([13, 0])
    for start, stop in ((13, 14), (14, 22)):
        out, cache = module(x[:, start:stop], cache, frames)
        expected = (
            masked_attention(module, x)[:1, start:stop],
            masked_attention(module, x[:, 13:])[1:, start - 13 : stop - 13],
        )
        torch.testing.assert_close(out, torch.cat(expected), rtol=1e-6, atol=1e-7)
        frames = frames + (stop - start)


def test_a_frame_with_gradients_leaves_the_ring_it_was_given() -> None:
    module, x = make_attention(), torch.randn(1, 1, 16, dtype=torch.float64)
    cache = module.init_cache(1, torch.float64, "cpu")
    module(x, cache, torch.zeros(1, dtype=torch.int64))
    assert cache.keys.abs().max() == 0
    with torch.no_grad():
        module(x, cache, torch.zeros(1, dtype=torch.int64))
    assert cache.keys.abs().max() > 0


def test_rotation_depends_on_distance_alone_even_after_ten_hours() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 64).unbind(0)

    def score(position: int) -> float:
        at = [rope_phases(torch.tensor([[p]]), 64, 10000.0) for p in (position, position - 7)]
        return float((apply_rope(q, at[0]) * apply_rope(k, at[1])).sum())

    ten_hours = 450_000
    assert score(ten_hours) == pytest.approx(score(7), abs=2e-5)


def test_rms_norm_is_computed_in_float32() -> None:
    norm = RMSNorm(8, eps=1e-8)
    x = torch.full((1, 8), 300.0, dtype=torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16 and torch.equal(norm(x), torch.ones(1, 8, dtype=torch.bfloat16))


def test_gate_comes_before_value() -> None:
    mlp = GatedMLP(1, 2)
    with torch.no_grad():
        mlp.fc1.weight.copy_(torch.tensor([[1.0], [10.0]]))
        mlp.fc2.weight.fill_(1.0)
    assert mlp(torch.tensor([[2.0]])).item() == pytest.approx(20 * 2 / (1 + torch.e**-2), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("hooked", ["", "mlp", "fc2"])
def test_a_feed_forward_is_added_in_place_where_nobody_asks_for_more(
    monkeypatch: pytest.MonkeyPatch, hooked: str
) -> None:
    torch.manual_seed(0)
    mlp, norm, residual = GatedMLP(4, 12).double(), RMSNorm(4, 1e-6).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    parts = {"mlp": mlp, "fc2": mlp.fc2}
    if hooked:
        parts[hooked].register_forward_hook(lambda module, inputs, output: 2 * output)
    expected, given = residual + mlp(norm(residual)), residual.clone()
    torch.testing.assert_close(plus_mlp(residual, mlp, norm), expected, rtol=0, atol=0)
    assert torch.equal(residual, given)
    monkeypatch.setattr(attention, "may_write", lambda _: True)
    found = plus_mlp(residual, mlp, norm)
    torch.testing.assert_close(found, expected)
    assert (found is residual) == (not hooked)


@torch.no_grad()
@pytest.mark.parametrize("reason", ["a class of its own", "a hook that keeps what is normed"])
def test_a_residual_is_not_written_to_where_that_would_be_seen(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    class Doubled(GatedMLP):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    mlp = (Doubled if reason == "a class of its own" else GatedMLP)(4, 12)
    norm, residual, kept = RMSNorm(4, 1e-6), torch.randn(2, 3, 4), []
    if reason != "a class of its own":
        norm.register_forward_pre_hook(lambda module, inputs: kept.append(inputs[0]))
    monkeypatch.setattr(attention, "may_write", lambda _: True)
    expected, given = residual + mlp(norm(residual)), residual.clone()
    torch.testing.assert_close(plus_mlp(residual, mlp, norm), expected)
    assert all(torch.equal(x, given) for x in [residual, *kept])
