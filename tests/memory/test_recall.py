"""A fresh memory learns: fixed maps in minutes, changing maps for hours, at every depth, in float32 and bfloat16."""

import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory.layer import LEARNERS, TTTLayer, TTTLearner
from hf_moshi_ttt.memory.naive import inner_target
from hf_moshi_ttt.memory.recall import best_constant_loss, follow, make_recall_stream

DEPTHS = [1, 2, 3, 5]
WIDTH, HEADS, MINUTE = 64, 2, 750


def make_learner(depth: int, heads: int = 1, width: int = WIDTH, **options: object) -> TTTLearner:
    torch.manual_seed(0)
    return TTTLearner(heads, width, TTTConfig(preset="mini_batch", ttt_mlp_layers=depth, **options))


def test_a_stream_shows_each_key_with_its_value() -> None:
    stream = make_recall_stream(60, 4, num_keys=3, period_frames=30)
    pairs = {tuple(k.tolist()): [] for k in stream.keys_TF}
    for index, (k, v) in enumerate(zip(stream.keys_TF, stream.values_TF, strict=True)):
        pairs[tuple(k.tolist())].append((index // 30, tuple(v.tolist())))
    assert len(pairs) == 3 and all(len(set(values)) == 2 for values in pairs.values())
    noisy = make_recall_stream(20000, 4, num_keys=3, noise=0.5)
    clean = make_recall_stream(20000, 4, num_keys=3)
    assert (noisy.values_TF - clean.values_TF).std().item() == pytest.approx(0.5, rel=0.02)


def test_best_constant_is_the_variance_of_the_targets() -> None:
    learner, stream = make_learner(1), make_recall_stream(4000, WIDTH, num_keys=2)
    # Two targets with equal chances: the best constant is their middle, a quarter of their squared distance away.
    assert best_constant_loss(learner, stream) < 0.8
    many = make_recall_stream(4000, WIDTH, num_keys=2000)
    assert best_constant_loss(learner, many) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_fresh_layer_learns_a_fixed_map(depth: int, dtype: torch.dtype) -> None:
    """Random tokens through fresh projections: each token's key has its value. As a model keeps it, W_0 is float32."""
    torch.manual_seed(0)
    layer = TTTLayer(HEADS * WIDTH, HEADS, TTTConfig(preset="mini_batch", ttt_mlp_layers=depth))
    for name, module in layer.named_children():
        if name != "learner":
            module.to(dtype)
    drawn = torch.randint(32, (2, 4 * MINUTE))
    x = torch.randn(32, HEADS * WIDTH)[drawn].to(dtype)
    with torch.no_grad():
        found = layer(x, diagnostics=True).diagnostics
        q, k, v, gates = layer.project(x)
        constant = _constant_loss(layer, k, v, gates)
        share = layer(x[:, -MINUTE:], layer(x[:, :-MINUTE]).state, diagnostics=True).diagnostics.key_dependent_share
    assert (found.loss_initial.mean((0, 2)) > 1.5 * constant).all()  # a fresh answer is random
    assert (found.loss_before[:, :, MINUTE : MINUTE + 100].mean((0, 2)) < 0.9 * constant).all()
    assert (found.loss_before[:, :, -100:].mean((0, 2)) < 0.5 * constant).all()
    assert (share > 0.9).all()


def _constant_loss(layer: TTTLayer, k: torch.Tensor, v: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    tokens = layer.learner.inner_tokens(k, k, v, gates, None)
    return inner_target(layer.learner.inner_network(), tokens.k, tokens.v).var(2, correction=0).mean((0, 2))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_fresh_memory_follows_a_changing_map_for_two_hours(depth: int) -> None:
    learner, frames = make_learner(depth), 120 * MINUTE
    stream = make_recall_stream(frames, WIDTH, period_frames=MINUTE)
    first, state = follow(learner, stream.part(0, frames // 4), 1)
    _, state = follow(learner, stream.part(frames // 4, 3 * frames // 4), 1, state, diagnostics=False)
    last, _ = follow(learner, stream.part(3 * frames // 4, frames), 1, state)
    assert last.loss_before.mean() <= first.loss_before.mean()
    assert last.loss_before.mean() <= 0.75
    assert last.key_dependent_share.min() > 0.9


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_hundred_thousand_frames_stay_finite_and_bounded(depth: int) -> None:
    learner = make_learner(depth, width=32, base_lr=1.0)
    stream = make_recall_stream(100_000, 32, period_frames=MINUTE)
    _, half = follow(learner, stream.part(0, 50_000), 1, diagnostics=False)
    _, state = follow(learner, stream.part(50_000, 100_000), 1, half, diagnostics=False)
    for then, now, start in zip(half.delta_weights, state.delta_weights, learner.inner_weights, strict=True):
        assert torch.isfinite(now).all()
        assert now.norm() < 3 * start.norm() and now.norm() < 1.5 * then.norm()


def test_without_forgetting_the_memory_grows_stale() -> None:
    """Why `forget: learned` is the default."""
    stream, found = make_recall_stream(60 * MINUTE, WIDTH, period_frames=MINUTE), {}
    for forget in ("learned", "none"):
        learner = make_learner(1, forget=forget)
        _, state = follow(learner, stream.part(0, 50 * MINUTE), 1, diagnostics=False)
        diagnostics, _ = follow(learner, stream.part(50 * MINUTE, 60 * MINUTE), 1, state)
        found[forget] = diagnostics.loss_before.mean().item()
    assert found["none"] > 1.5 * found["learned"]


def test_controls_do_not_learn_and_the_linear_baseline_does() -> None:
    stream, found = make_recall_stream(2 * MINUTE, WIDTH), {}
    for name in ("static", "gated_delta"):
        learner = LEARNERS[name, False](1, WIDTH, TTTConfig(preset="mini_batch", learner=name))
        diagnostics, _ = follow(learner, stream, 1)
        losses = diagnostics.loss_before
        found[name] = (losses[:, :, -100:].mean() / losses[:, :, :100].mean()).item()
    assert found["static"] == pytest.approx(1, abs=0.1) and found["gated_delta"] < 0.3


def test_rates_of_rows_are_their_own() -> None:
    learner, stream = make_learner(2), make_recall_stream(MINUTE, WIDTH)
    found, state = follow(learner, stream, 1, gate_logits_B=torch.tensor([-20.0, 0.0]))
    assert state.delta_weights[0][0].norm() < 1e-3 * state.delta_weights[0][1].norm()
    assert found.loss_before.shape == (2, 1, MINUTE)
    assert found.loss_before[0, :, -100:].mean() > 2 * found.loss_before[1, :, -100:].mean()
