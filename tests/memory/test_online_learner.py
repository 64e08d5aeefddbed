"""The laws of online test-time training as a layer, its front end included: fast == naive, causal, any chunks, rows."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory import online_learner, recomputation
from hf_moshi_ttt.memory.front_end import naive_front_end, normed_values
from hf_moshi_ttt.memory.layer import TTTLayer
from hf_moshi_ttt.memory.online import naive_online, unit_features
from hf_moshi_ttt.memory.online_learner import OnlineLearner

from ..fixtures.learner_laws import (
    diagnostics_whole_and_in_chunks,
    gradients_whole_and_in_chunks,
    require_checkpointing_changes_nothing,
    require_rows_apart,
    require_state_unchanged,
)
from ..fixtures.online_cases import EVERY, HEADS, ONLINE, WIDTH, make_input, make_layer
from ..fixtures.ttt_cases import float64_rule

pytestmark = pytest.mark.usefixtures(float64_rule.__name__)


def naive(layer: TTTLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """z and S by the definitions alone."""
    learner, (q, k, v, gates) = layer.learner, layer.project(x)
    tokens = learner.inner_tokens(q, k, normed_values(v), gates)
    if learner.front_end is not None:
        q, k = naive_front_end(learner.front_end, q, k)
        tokens = tokens._replace(q=q, k=k)
    fast = tokens.v.new_zeros(len(x), HEADS, learner.feature_dim, learner.head_dim)
    means = naive_mean(tokens.v, learner.config.centering_horizon_frames) if learner.has_mean else 0 * tokens.v
    answers, fast = naive_online(learner.slow_layers(), tokens._replace(v=tokens.v - means), fast)
    z = answers * naive_gate(learner, answers, tokens.v - means) if learner.answer_gate is not None else answers
    if learner.has_mean:
        z = z + learner.mean_scale[:, None] * means
    return learner.scaled(z), fast


def naive_gate(learner: OnlineLearner, answers: Tensor, v: Tensor) -> Tensor:
    """The gate, frame by frame, from answers and values of the heads that are about the next frame."""
    gate, first, factors = learner.answer_gate, learner.config.same_frame_heads, []
    before = torch.zeros_like(v[:, :, 0])
    for t in range(v.shape[2]):
        product = (v[:, first:, t] * before[:, first:]).sum(-1)
        sizes = v[:, first:, t].norm(dim=-1).clamp_min(1e-4) * before[:, first:].norm(dim=-1).clamp_min(1e-4)
        factors.append(torch.sigmoid(gate.bias + gate.scale * (product / sizes).mean(1)[:, None]))
        before = answers[:, :, t]
    return torch.stack(factors, dim=2)[..., None]


def naive_mean(v: Tensor, horizon_frames: int) -> Tensor:
    """The running mean of the values, frame by frame."""
    means, mean = [], torch.zeros_like(v[:, :, 0])
    for t in range(v.shape[2]):
        mean = mean + (v[:, :, t] - mean) / min(t + 1, horizon_frames)
        means.append(mean)
    return torch.stack(means, dim=2)


def fast(layer: TTTLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    z, state, _ = layer.learner(*layer.project(x), None, False)
    return z, state.fast_weights


def outputs_and_gradients(layer: TTTLayer, x: Tensor, form: Any) -> list[Tensor]:
    """z, S, and the gradients of a function of both by the input and every parameter before z."""
    leaf = x.clone().requires_grad_()
    z, fast_weights = form(layer, leaf)
    inner = [p for n, p in layer.named_parameters() if not n.startswith(("o_proj", "output_gate"))]
    grads = torch.autograd.grad(
        z.sin().sum() + fast_weights.cos().sum(), [leaf, *inner], allow_unused=True, materialize_grads=True
    )
    return [z, fast_weights, *grads]


@pytest.mark.parametrize("frames", [1, 2, 63, 64, 65, 260])
@pytest.mark.parametrize("options", ONLINE, ids=str)
def test_fast_equals_naive_with_gradients(options: dict, frames: int) -> None:
    layer, x = make_layer(**options), make_input(frames)
    for own, truth in zip(*(outputs_and_gradients(layer, x, form) for form in (fast, naive)), strict=True):
        torch.testing.assert_close(own, truth, rtol=0, atol=1e-10 * max(1.0, float(truth.detach().abs().max())))


@pytest.mark.parametrize("options", ONLINE, ids=str)
def test_fast_is_as_exact_as_naive_in_float32(options: dict) -> None:
    true, own, other = (
        outputs_and_gradients(make_layer(dtype, **options), make_input(150, dtype=dtype), form)
        for dtype, form in ((torch.float64, naive), (torch.float32, fast), (torch.float32, naive))
    )
    for truth, *found in zip(true, own, other, strict=True):
        scale = max(1.0, float(truth.detach().abs().max()))
        error, naive_error = ((x - truth).detach().abs().max() / scale for x in found)
        assert error < max(1e-5, 2.5 * naive_error)


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("position", [0, 1, 4, 63, 64])
def test_future_leaves_the_past_bit_identical(options: dict, position: int) -> None:
    layer, x = make_layer(**options), make_input(70)
    changed = x.clone()
    changed[:, position + 1 :] += torch.randn_like(changed[:, position + 1 :])
    before, after = layer(x).output, layer(changed).output
    assert torch.equal(before[:, : position + 1], after[:, : position + 1])
    assert not torch.equal(before[:, position + 2 :], after[:, position + 2 :])


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("chunks", [[1] * 70, [1, 2, 60, 7], [64, 3, 1, 2]], ids=str)
def test_any_chunks_equal_the_whole(options: dict, chunks: list[int]) -> None:
    layer, x = make_layer(**options), make_input(70)
    whole = layer(x)
    for grad in (True, False):
        state, outputs = None, []
        with torch.set_grad_enabled(grad):
            for piece in x.split(chunks, dim=1):
                step = layer(piece, state)
                state = step.state
                outputs.append(step.output)
        torch.testing.assert_close(torch.cat(outputs, dim=1), whole.output, rtol=1e-11, atol=1e-11)
        for name, tensor in whole.state.named_tensors().items():
            if ".ring_" not in name:  # rings may hold different padding where their rate is 0
                torch.testing.assert_close(state.named_tensors()[name], tensor, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_rows_at_different_positions_run_as_alone(options: dict) -> None:
    """Row 0 has heard 7 frames, row 1 none; then both hear 23, at once and frame by frame."""
    layer, x = make_layer(**options), make_input(40)
    started, fresh = layer(x[:1, :7]).state, layer.init_state(1)
    both = started.map(lambda name, own: torch.cat([own, fresh.named_tensors()[name].to(own.dtype)]))
    mixed = torch.cat([x[:1, 7:30], x[1:, 7:30]])
    alone = torch.cat([layer(x[:1, 7:30], started).output, layer(x[1:, 7:30]).output])
    state, frames = both, []
    for frame in mixed.split(1, dim=1):
        step = layer(frame, state)
        state = step.state
        frames.append(step.output)
    for found in (layer(mixed, both).output, torch.cat(frames, dim=1)):
        torch.testing.assert_close(found, alone, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_rows_do_not_touch_each_other(options: dict) -> None:
    require_rows_apart(make_layer(**options), make_input(30, batch=3))


@pytest.mark.parametrize("options", [*ONLINE, dict(learner="gated_delta")], ids=str)
def test_gradients_flow_through_carried_state(options: dict) -> None:
    layer = make_layer(**options)
    parameters = [p for n, p in layer.named_parameters() if n != "rate_proj.bias" or options.get("forget") != "none"]
    for a, b in gradients_whole_and_in_chunks(layer, make_input(40), parameters, [9, 1, 1, 29]):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_state_is_not_changed_by_the_call_that_continues_it() -> None:
    require_state_unchanged(make_layer(), make_input(20))


def test_checkpointing_the_layer_changes_no_gradient() -> None:
    require_checkpointing_changes_nothing(make_layer(torch.float32), make_input(70, dtype=torch.float32))


def test_a_fresh_layer_is_silent_and_adds_nothing() -> None:
    torch.manual_seed(0)
    layer, x = TTTLayer(WIDTH, HEADS, TTTConfig()), make_input(9, dtype=torch.float32)
    result = layer(x)
    assert torch.equal(result.output, torch.zeros_like(x)) and result.state.fast_weights.abs().max() > 0
    _, _, v, _ = layer.project(x[:, :1])
    z, state, _ = layer.learner(*layer.project(x[:, :1]), None, False)
    torch.testing.assert_close(z, normed_values(v))  # the mean of one value
    assert not state.fast_weights.any()  # the first frame has no key yet, so nothing is written
    result.output.sum().backward()
    assert layer.o_proj.weight.grad.abs().max() > 0


def test_without_its_bias_a_fresh_memory_is_silent() -> None:
    layer, x = TTTLayer(WIDTH, HEADS, TTTConfig(output_bias=False)), make_input(1, dtype=torch.float32)
    z, state, _ = layer.learner(*layer.project(x), None, False)
    assert not z.any() and not state.fast_weights.any() and state.value_mean is None


def test_a_memory_is_loud_where_something_returns() -> None:
    """Random frames heard twice: the gate scales the first hearing's answers by less than a third of the second's."""
    torch.manual_seed(0)
    layer, x = TTTLayer(64, HEADS, TTTConfig(output_bias=False)), torch.randn(4, 24, 64).repeat(1, 2, 1)
    bare = TTTLayer(64, HEADS, TTTConfig(output_bias=False, answer_gate="none"))
    bare.load_state_dict(layer.state_dict(), strict=False)
    z, other = (each.learner(*each.project(x), None, False)[0] for each in (layer, bare))
    share = (z.norm(dim=-1) / other.norm(dim=-1)).nan_to_num()
    assert share[:, :, 4:24].mean() < 0.3 * share[:, :, 28:].mean() and share[:, :, 28:].mean() > 0.7


@pytest.mark.parametrize("options", [dict(), dict(learner="static"), dict(output_gate="sigmoid")], ids=str)
def test_every_parameter_has_a_gradient_after_one_step(options: dict) -> None:
    torch.manual_seed(0)
    layer = TTTLayer(WIDTH, HEADS, TTTConfig(**options))
    x, goal = torch.randn(2, 4, 30, WIDTH, generator=torch.Generator().manual_seed(0)).unbind(0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    silent = {"k_proj", "v_proj", "rate_proj"} if options.get("learner") == "static" else set()
    layer(x).output.sub(goal).square().mean().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()} == {"o_proj.weight"}
    optimizer.step()
    optimizer.zero_grad()
    layer(x).output.sub(goal).square().mean().backward()
    for name, parameter in layer.named_parameters():
        if name.split(".")[0] not in silent - {"k_proj"} and "convolutions.1" not in name or not silent:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fresh_memory_recalls_pairs_heard_once(seed: int) -> None:
    """48 pairs of random frames: a second hearing of each key is answered with its value, cosine 0.7 at least."""
    torch.manual_seed(seed)
    width, pairs = 128, 48
    table = torch.randn(256, width)
    heard = torch.stack([torch.randperm(256)[:pairs] for _ in range(4)]).repeat(1, 2)
    layer = TTTLayer(width, 2, TTTConfig())
    with torch.no_grad():
        q, k, v, gates = layer.project(F.rms_norm(table[heard], (width,)))
        z, _, _ = layer.learner(q, k, v, gates, None, False)
    cosine = F.cosine_similarity(z[:, :, pairs:-1], v[:, :, pairs + 1 :], dim=-1).mean()
    assert cosine > 0.7


def hostile(kind: str, frames: int) -> Tensor:
    x = make_input(frames, batch=1, dtype=torch.float32)
    if kind == "degenerate":
        return x[:, :1] * torch.randn(1, frames, 1)
    return {"zero": 0 * x, "constant": 0 * x + 1, "enormous": 1e4 * x, "repeated": x[:, :3].repeat(1, frames // 3, 1)}[
        kind
    ]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["zero", "constant", "enormous", "degenerate", "repeated"])
def test_a_write_is_bounded_and_recall_survives(kind: str, dtype: torch.dtype) -> None:
    """||S_t||^2 <= a_t^2 ||S_{t-1}||^2 + ||v_t - m_t||^2 at every frame, and what is heard afterwards is recalled."""
    torch.manual_seed(0)
    layer = TTTLayer(WIDTH, 1, TTTConfig(ttt_mlp_expansion_factor=8)).to(dtype)
    layer.learner.float()
    state, norm = None, torch.zeros(())
    for frame in hostile(kind, 60).to(dtype).split(1, dim=1):
        q, k, v, gates = layer.project(frame)
        tokens = layer.learner.inner_tokens(q, k, normed_values(v.float()), gates)
        _, state, _ = layer.learner(q, k, v, gates, state, False)
        value = tokens.v - state.value_mean[:, :, None]
        bound = tokens.log_retention.exp().square() * norm.square() + value.square().sum(-1)
        norm = state.fast_weights.norm()
        assert norm.square() <= bound * (1 + 1e-5) + 1e-6
    heard = make_input(12, batch=1, dtype=torch.float32).to(dtype).repeat(1, 4, 1)
    q, k, v, gates = layer.project(heard)
    z, _, _ = layer.learner(q, k, v, gates, state, False)
    assert torch.isfinite(z).all()
    assert F.cosine_similarity(z[:, :, 36:-1], v[:, :, 37:], dim=-1).mean() > 0.8


@torch.no_grad()
def test_a_long_stream_stays_bounded_and_recalls() -> None:
    """20,000 frames, 27 minutes: the norm of S is at most sqrt(4 F / (1 - a^2)) for the largest retention a."""
    torch.manual_seed(0)
    layer = TTTLayer(32, 1, TTTConfig())
    state, largest = None, 0.0
    for piece in torch.randn(1, 20_000, 32).split(5_000, dim=1):
        q, k, v, gates = layer.project(piece)
        largest = max(largest, layer.learner.inner_tokens(q, k, v, gates).log_retention.max().item())
        _, state, _ = layer.learner(q, k, v, gates, state, False)
    bound = (4 * 32 / (1 - torch.tensor(2 * largest).exp())).sqrt()
    assert torch.isfinite(state.fast_weights).all() and state.fast_weights.norm() < bound
    q, k, v, gates = layer.project(torch.randn(1, 12, 32).repeat(1, 3, 1))
    z, _, _ = layer.learner(q, k, v, gates, state, False)
    assert F.cosine_similarity(z[:, :, 24:-1], v[:, :, 25:], dim=-1).mean() > 0.8


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("chunks", [[1] * 23, [5, 1, 17]], ids=str)
def test_diagnostics_do_not_depend_on_chunks(options: dict, chunks: list[int]) -> None:
    diagnostics_whole_and_in_chunks(make_layer(**options), make_input(23), chunks)


@pytest.mark.parametrize("options", ONLINE, ids=str)
def test_diagnostics_are_those_of_the_definition(options: dict) -> None:
    layer, x = make_layer(**options), make_input(14)
    found, (q, k, v, gates) = layer(x, diagnostics=True).diagnostics, layer.project(x)
    learner, before = layer.learner, k
    tokens = learner.inner_tokens(q, k, normed_values(v), gates)
    if learner.front_end is not None:
        q, k = naive_front_end(learner.front_end, q, k)
        unit = F.normalize(before, dim=-1)
        cosines = [(unit[:, :, i] * unit[:, :, j]).sum(-1) for i in range(14) for j in range(14) if i != j]
        torch.testing.assert_close(found.key_cosine_before, torch.stack(cosines).mean(0))
        assert (found.key_cosine_after < found.key_cosine_before.max()).all()
    else:
        assert found.key_cosine_before is None and found.key_cosine_after is None
    if learner.has_mean:
        tokens = tokens._replace(v=tokens.v - naive_mean(tokens.v, learner.config.centering_horizon_frames))
    own = tokens._replace(q=k, k=k)
    asked_after, fast_weights = naive_online(learner.slow_layers(), own, learner.init_state(2).fast_weights)
    torch.testing.assert_close(found.loss_after, (tokens.v - asked_after).square().mean(-1))
    asked_before = naive_online(
        learner.slow_layers(),
        own._replace(write=own.write * (torch.arange(14) < 13)),
        learner.init_state(2).fast_weights,
    )[0]
    torch.testing.assert_close(found.loss_before[:, :, 13], (tokens.v - asked_before).square().mean(-1)[:, :, 13])
    torch.testing.assert_close(found.loss_initial, tokens.v.square().mean(-1))
    torch.testing.assert_close(found.write_strength, tokens.write.mean(2))
    for norm, keys in ((found.answer_norm_written, k), (found.answer_norm_unwritten, k.roll(WIDTH // 4, dims=-1))):
        learned = unit_features(keys, learner.slow_layers()) @ fast_weights
        torch.testing.assert_close(norm, learned.norm(dim=-1).mean(2))
    assert found.delta_ratio is None and not found.loss_after.requires_grad


def test_a_fresh_layer_answers_what_it_heard_louder_than_other_keys() -> None:
    torch.manual_seed(0)
    found = TTTLayer(WIDTH, HEADS, TTTConfig())(make_input(14, dtype=torch.float32), diagnostics=True).diagnostics
    assert (found.answer_norm_written > 1.1 * found.answer_norm_unwritten).all()


def test_scaled_inner_rates_are_those_of_a_scaled_base_lr() -> None:
    layer, scaled, x = make_layer(base_lr=1.0), make_layer(base_lr=0.25), make_input(23)
    scaled.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, inner_lr_scale=0.25).output, scaled(x).output)
    assert not torch.equal(layer(x).output, scaled(x).output)
    silent = layer(x, inner_lr_scale=0.0)
    assert not any(x.any() for x in (silent.output, silent.state.fast_weights, silent.state.value_mean))
    with pytest.raises(ValueError, match="lr_scale=2.0 with base_lr=1.0, but their product must be at most 1"):
        layer(x, inner_lr_scale=2.0)


def test_segments_are_longer_on_gpus_and_no_longer_than_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(online_learner, "walk", lambda *given: asked.append(given[-1]) or recomputation.walk(*given))
    make_layer()(make_input(3))
    for rows, expected in ((1, 4096), (4, 1024), (100, 256)):
        assert online_learner._segment_frames(torch.empty(rows, 1, 1, 1, device="meta")) == expected
    assert asked == [256]
    monkeypatch.setattr(online_learner, "_segment_frames", lambda _: 2)
    make_layer()(make_input(3))
    assert asked == [256, 2]
