"""The TTT layer as a module of its own: it stands alone, starts at zero, and keeps its inner loop in float32."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory import layer as layer_module
from hf_moshi_ttt.memory.layer import TTTLayer, gated_sum
from hf_moshi_ttt.memory.projections import TTTGate

from ..fixtures.learner_laws import require_checkpointing_changes_nothing


def make_layer(**options: object) -> TTTLayer:
    torch.manual_seed(0)
    return TTTLayer(32, 2, TTTConfig(**{"preset": "mini_batch", "mini_batch_size": 4, **options}))


def awake(layer: TTTLayer) -> TTTLayer:
    torch.nn.init.normal_(layer.o_proj.weight, std=0.2)
    return layer


def test_fresh_layer_adds_exactly_nothing_but_learns() -> None:
    result = make_layer()(torch.randn(2, 9, 32))
    assert torch.equal(result.output, torch.zeros(2, 9, 32))
    assert result.state.delta_weights[0].abs().max() > 0


def test_fresh_layer_has_a_gradient_for_o_proj() -> None:
    layer = make_layer()
    layer(torch.randn(2, 9, 32)).output.sum().backward()
    assert layer.o_proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, [(16, 16)]), (2, [(16, 64), (64, 16)]), (3, [(16, 64), (64, 64), (64, 16)])]
)
def test_inner_networks_have_the_named_depth_and_expansion(depth: int, expected: list) -> None:
    layer = make_layer(ttt_mlp_layers=depth)
    assert [tuple(weight.shape[1:]) for weight in layer.learner.inner_weights] == expected
    assert len(layer.learner.inner_biases) == depth
    assert len(make_layer(ttt_mlp_layers=depth, output_bias=False).learner.inner_biases) == depth - 1


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_default_initialisation_keeps_the_signal_and_paper_is_published(depth: int) -> None:
    def spread(**options: object) -> float:
        torch.manual_seed(0)
        layer = TTTLayer(128, 2, TTTConfig(**{"preset": "mini_batch", "ttt_mlp_layers": depth, **options}))
        x = torch.nn.functional.rms_norm(torch.randn(1, 200, 64), (64,))
        for index, weight in enumerate(layer.learner.inner_weights):
            x = x @ weight[0]
            x = torch.nn.functional.gelu(x, approximate="tanh") if index < depth - 1 else x
        return float(x.std(dim=1).mean())

    assert 0.1 < spread() < 1.5
    paper = make_layer(preset="paper", ttt_mlp_layers=depth)
    assert paper.learner.inner_weights[0].std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize("step", ["mean", "constant"])
def test_place_weights(step: str) -> None:
    expected = [1, 1 / 2, 1 / 3, 1 / 4] if step == "mean" else [1 / 4] * 4
    layer = make_layer(step=step)
    assert layer.learner.inner_network().position_weights_C.tolist() == pytest.approx(expected)
    with torch.no_grad():
        layer.learner.place_offset.copy_(torch.tensor([0.0, 0.5, -5.0, 0.0]))
    assert layer.learner.inner_network().position_weights_C.tolist() == pytest.approx(
        [expected[0], expected[1] + 0.5, 0, expected[3]]
    )


def test_retention_shrinks_what_was_learned() -> None:
    retained, forgotten = make_layer(forget="none"), make_layer(forget="learned", initial_retention=0.5)
    forgotten.load_state_dict(retained.state_dict(), strict=False)
    assert forgotten.learner.inner_network().retention_H.tolist() == pytest.approx([0.5, 0.5])
    x = torch.randn(1, 8, 32)
    one, two = (layer(x[:, :4]).state.delta_weights[0] for layer in (retained, forgotten))
    assert torch.equal(one, two)  # nothing was learned before the first mini-batch
    step = retained(x).state.delta_weights[0] - one
    torch.testing.assert_close(forgotten(x).state.delta_weights[0], 0.5 * one + step, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["bfloat16 weights", "autocast"])
def test_inner_loop_stays_in_float32(how: str) -> None:
    layer, x = awake(make_layer()), torch.randn(2, 40, 32)
    exact = layer(x)
    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = layer(x)
        assert torch.equal(result.output, exact.output)
    else:
        for module in (layer.q_proj, layer.k_proj, layer.v_proj, layer.o_proj, layer.rate_proj):
            module.bfloat16()
        result = layer(x.bfloat16())
        assert result.output.dtype == torch.bfloat16
        torch.testing.assert_close(result.output.float(), exact.output, rtol=0.1, atol=0.1)
    assert {tensor.dtype for tensor in result.state.delta_weights} == {torch.float32}


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"hidden_size=30 must be a multiple of 2 \* num_attention_heads=8"):
        TTTLayer(30, 4, TTTConfig())


def test_layer_says_what_it_returns() -> None:
    layer, x = make_layer(), torch.randn(2, 9, 32)
    result = layer(x)
    assert result.output.shape == x.shape and result.diagnostics is None
    assert result.state.position.tolist() == [1, 1]
    found = layer(x, diagnostics=True).diagnostics
    assert found.loss_before.shape == (2, 2, 9) and found.delta_ratio.shape == found.key_dependent_share.shape == (2, 2)
    assert found.gate is None and found.branch_to_residual is None  # known to the model alone


@pytest.mark.parametrize("shape", [(2, 9, 16), (2, 0, 32), (9, 32)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"x must be \[B, T >= 1, 32\]; got \[{shape[0]}"):
        make_layer()(torch.zeros(shape))


def test_a_state_of_other_rows_is_refused() -> None:
    layer = make_layer()
    with pytest.raises(ValueError, match="x has 2 rows, but the state has 3"):
        layer(torch.zeros(2, 1, 32), layer.init_state(3))


KINDS: list[dict[str, Any]] = [
    {}, {"key_lag_frames": 0}, {"key_convolution_width": 1}, {"answer_gate": "none"}, {"output_bias": False},
    {"ttt_mlp_layers": 1}, {"learner": "static"}, {"learner": "gated_delta"}, {"preset": "mini_batch"},
]  # fmt: skip


@pytest.mark.parametrize("frames", [1, 5])
def test_a_state_of_another_layer_is_refused(frames: int) -> None:
    """Some would be read without a word: keys with a lag as keys without one."""
    layers = [TTTLayer(32, 2, TTTConfig(**kind)) for kind in KINDS]
    x = torch.randn(1, frames, 32)
    for own, other in itertools.permutations(layers, 2):
        with torch.no_grad(), pytest.raises(ValueError, match="The state belongs to another layer or configuration: "):
            own(x, other.init_state(1))
        own(x, own.init_state(1))


@pytest.mark.parametrize("scale", [-1.0, -1e-9, math.nan, math.inf])
def test_a_step_in_the_wrong_direction_is_refused(scale: float) -> None:
    for learner in ("ttt", "static"):
        for preset in ("default", "mini_batch"):
            layer = TTTLayer(32, 2, TTTConfig(learner=learner, preset=preset))
            with pytest.raises(ValueError, match="inner_lr_scale=.*, but it must be a number, 0 or more"):
                layer(torch.randn(1, 1, 32), inner_lr_scale=scale)


@pytest.mark.parametrize("depth", [1, 5])
def test_a_bfloat16_layer_has_a_float32_memory(depth: int) -> None:
    """The inner loop on bfloat16 projections is bit for bit the one in float32 on their values."""
    layer = awake(make_layer(ttt_mlp_layers=depth)).bfloat16()
    x = torch.randn(2, 23, 32).bfloat16()
    result = layer(x)
    tensors = result.state.named_tensors()
    assert {tensor.dtype for name, tensor in tensors.items() if name != "position"} == {torch.float32}
    learner = make_layer(ttt_mlp_layers=depth).learner
    learner.load_state_dict({name: value.float() for name, value in layer.learner.state_dict().items()})
    _, exact, _ = learner(*(value.float() for value in layer.project(x)), None, False)
    assert all(torch.equal(tensor, exact.named_tensors()[name]) for name, tensor in tensors.items())


def test_checkpointing_the_layer_changes_no_gradient() -> None:
    require_checkpointing_changes_nothing(awake(make_layer()), torch.randn(2, 23, 32))


@pytest.mark.usefixtures("one_process")
@pytest.mark.filterwarnings("error:FSDP2-wrapped module .* returned a view")  # torch: gradients may be wrong
@pytest.mark.parametrize("learner_dtype", [None, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("options", [dict(), dict(learner="gated_delta"), dict(preset="default")], ids=str)
def test_fsdp2s_cast_leaves_the_inner_loop_in_float32(options: dict, learner_dtype: torch.dtype | None) -> None:
    """FSDP2 hands parameters to forward in bfloat16; a learner sharded with a policy of its own keeps its W_0 exact."""
    layer, seen = awake(make_layer(**options)), {}
    start = {name: value.clone() for name, value in layer.learner.state_dict().items()}
    mesh = init_device_mesh("cpu", (1,))
    if learner_dtype is not None:
        fully_shard(layer.learner, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=learner_dtype))
    fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    assert all(isinstance(parameter, DTensor) for parameter in layer.parameters())
    layer.learner.register_forward_pre_hook(
        lambda module, _: seen.update({n: p.detach().clone() for n, p in module.named_parameters()})
    )
    state, total = layer.init_state(2), torch.zeros(())
    for piece in torch.randn(2, 23, 32).split([10, 13], dim=1):
        result = layer(piece, state)
        state, total = result.state, total + result.output.float().square().sum()
    assert {t.dtype for t in state.named_tensors().values() if t.is_floating_point()} == {torch.float32}
    assert {value.dtype for value in seen.values()} == {learner_dtype or torch.bfloat16}
    if learner_dtype == torch.float32:
        assert all(torch.equal(value, start[name]) for name, value in seen.items())
    total.backward()
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter.grad.to_local()).all() and parameter.grad.to_local().any(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options",
    [dict(ttt_mlp_layers=depth) for depth in (1, 2, 3, 5)]
    + [dict(ttt_mlp_layers=2, preset="paper"), dict(ttt_mlp_layers=3, update="last"), dict(learner="gated_delta")],
    ids=str,
)
def test_every_parameter_has_a_gradient_after_one_step(options: dict, dtype: torch.dtype) -> None:
    """At step 0 `o_proj` is zero and takes the only step; then everything learns."""
    layer = make_layer(**options).to(dtype)
    x, goal = torch.randn(2, 4, 30, 32, generator=torch.Generator().manual_seed(0)).to(dtype).unbind(0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(x).output.sub(goal).square().mean().backward()
    assert {name for name, p in layer.named_parameters() if p.grad.any()} == {"o_proj.weight"}
    optimizer.step()
    optimizer.zero_grad()
    layer(x).output.sub(goal).square().mean().backward()
    for name, parameter in layer.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_scaled_inner_rates_are_those_of_a_scaled_base_lr() -> None:
    layer, scaled, x = awake(make_layer(base_lr=1.0)), awake(make_layer(base_lr=0.25)), torch.randn(2, 23, 32)
    scaled.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, inner_lr_scale=0.25).output, scaled(x).output)
    assert not torch.equal(layer(x).output, scaled(x).output)
    static = awake(make_layer(learner="static"))
    assert torch.equal(static(x, inner_lr_scale=0.25).output, static(x).output)
    with pytest.raises(ValueError, match="lr_scale=0.25, but the gated delta rule has no inner rate to scale"):
        make_layer(learner="gated_delta")(x, inner_lr_scale=0.25)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_sum_is_the_residual_with_the_gated_branch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gate, (x, residual) = TTTGate(8, 0.7), torch.randn(2, 2, 3, 8).to(dtype)
    plain, exact = gated_sum(residual, gate, x), residual.double() + math.tanh(0.7) * x.double()
    monkeypatch.setattr(layer_module, "may_write", lambda _: True)
    found, given = gated_sum(residual, gate, x), residual.clone()
    assert found.dtype == plain.dtype == dtype and torch.equal(residual, given)
    assert (found - exact).abs().max() <= (plain - exact).abs().max()
    assert torch.equal(gated_sum(residual, gate, torch.zeros_like(x)), residual)
    gate.register_forward_hook(lambda module, inputs, output: 0 * output)
    assert torch.equal(gated_sum(residual, gate, x), residual)
