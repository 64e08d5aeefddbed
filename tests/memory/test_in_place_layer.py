"""The In-Place TTT layer as a module: the laws of learners, its start, its dtypes and what it tells."""

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.memory.in_place import naive_in_place
from hf_moshi_ttt.memory.in_place_layer import InPlaceLayer
from hf_moshi_ttt.memory.layer import TTTLayer

from ..fixtures.in_place_cases import CHUNK, HIDDEN_WIDTH, WIDTH, OfOneInput, make_frames, make_input, make_layer
from ..fixtures.learner_laws import (
    gradients_whole_and_in_chunks,
    require_checkpointing_changes_nothing,
    require_rows_apart,
    require_state_unchanged,
)


def test_layer_is_the_definition_with_its_parameters() -> None:
    layer, frames = make_layer(), make_frames(23)
    result = layer(*frames)
    answers, delta = naive_in_place(layer.learner.rule(), *frames)
    torch.testing.assert_close(result.output, answers, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(result.state.delta_weights, delta, rtol=1e-10, atol=1e-10)
    scaled = layer(*frames, inner_lr_scale=0.5).state.delta_weights
    torch.testing.assert_close(2 * scaled, delta, rtol=1e-10, atol=1e-10)


def test_rows_are_apart_and_states_stay() -> None:
    layer = OfOneInput(make_layer())
    require_rows_apart(layer, make_input(25))
    require_state_unchanged(layer, make_input(25))


def test_checkpointing_changes_no_gradient() -> None:
    require_checkpointing_changes_nothing(OfOneInput(make_layer()), make_input(23))


def test_gradients_are_the_same_in_chunks() -> None:
    layer, x = OfOneInput(make_layer()), make_input(23).requires_grad_()
    for one, other in gradients_whole_and_in_chunks(layer, x, [x, *layer.parameters()], [5, 1, 2, 15]):
        assert other.any()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_fresh_layer_adds_exactly_nothing_but_has_a_gradient() -> None:
    layer = make_layer(fresh=True)
    result = layer(*make_frames(23))
    assert not result.output.any() and not result.state.delta_weights.any()
    result.output.sum().backward()
    assert layer.learner.convolutions[0].grad.any()


def test_state_is_saved_restored_and_reset(tmp_path: Path) -> None:
    layer, (hidden, embedded) = make_layer(), make_frames(23)
    state = layer(hidden[:, :10], embedded[:, :10]).state
    state.save(tmp_path / "memory.safetensors", layer.config)
    loaded = layer.init_state(3).load(tmp_path / "memory.safetensors", layer.config)
    rest = hidden[:, 10:], embedded[:, 10:]
    assert torch.equal(layer(*rest, loaded).output, layer(*rest, state).output)
    fresh = layer(*rest, state.reset()).output
    assert torch.equal(fresh, layer(*rest).output)
    other = make_layer(target_lookahead_frames=1)
    with pytest.raises(ValueError, match="saved with target_lookahead_frames=2, but the model has"):
        other.init_state(3).load(tmp_path / "memory.safetensors", other.config)


def test_size_of_the_state_is_known_before_it_is_made() -> None:
    state = make_layer(torch.float32).init_state(2, device="meta")
    buffered = (CHUNK - 1) * (HIDDEN_WIDTH + WIDTH)
    assert state.num_bytes() == 2 * (4 * (WIDTH * HIDDEN_WIDTH + buffered) + 8)


@pytest.mark.parametrize("how", ["bfloat16 inputs", "autocast"])
def test_memory_is_computed_in_float32(how: str) -> None:
    layer, frames = make_layer(torch.float32), [x.bfloat16() for x in make_frames(23)]
    exact = layer(*(x.float() for x in frames))
    if how == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(*(x.float() for x in frames)).output, exact.output)
        return
    result = layer(*frames)
    assert result.output.dtype == torch.bfloat16 and result.state.delta_weights.dtype == torch.float32
    assert torch.equal(result.state.delta_weights, exact.state.delta_weights)


def test_diagnostics_tell_of_the_memory_after_the_call() -> None:
    layer, frames = make_layer(), make_frames(23)
    silent, told = layer(*frames), layer(*frames, diagnostics=True)
    assert silent.diagnostics is None and torch.equal(silent.output, told.output)
    found, answers = told.diagnostics, frames[0] @ told.state.delta_weights.mT
    assert found.loss_before is None and found.delta_ratio is None
    torch.testing.assert_close(found.answer_norm_written, answers.norm(dim=-1).mean(1, keepdim=True))
    share = answers.var(1).sum(-1) / answers.square().sum(-1).mean(1)
    torch.testing.assert_close(found.key_dependent_share, share[:, None])
    assert found.answer_norm_unwritten.shape == (3, 1)
    assert not torch.equal(found.answer_norm_unwritten, found.answer_norm_written)


def test_channels_that_answer_nothing_are_known() -> None:
    layer = make_layer()
    assert (layer.output_sizes() > 0).all() and not make_layer(fresh=True).output_sizes().any()
    with torch.no_grad():
        layer.learner.projections[0][2] = 0
        layer.learner.convolutions[0][:, 1:] *= -1  # no sum over taps that cancels counts as silent
    sizes, output = layer.output_sizes(), layer(*make_frames(23)).output
    assert sizes[2] == 0 and not output[..., 2].any() and (sizes > 0).sum() == WIDTH - 1
    owners = {parameter for module in layer.output_modules() for parameter in module.parameters()}
    assert owners == set(layer.parameters())


@pytest.mark.parametrize(
    ("hidden", "embedded"),
    [((2, 9, WIDTH), (2, 9, WIDTH)), ((2, 9, HIDDEN_WIDTH), (2, 8, WIDTH)), ((2, 0, HIDDEN_WIDTH), (2, 0, WIDTH)),
     ((9, HIDDEN_WIDTH), (9, WIDTH))],
)  # fmt: skip
def test_wrong_shapes_are_refused(hidden: tuple[int, ...], embedded: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"hidden must be \[B, T >= 1, 10\] and embedded \[B, T, 6\]; got \["):
        make_layer()(torch.zeros(hidden), torch.zeros(embedded))


def test_a_state_of_other_rows_is_refused() -> None:
    layer = make_layer()
    with pytest.raises(ValueError, match="hidden has 3 rows, but the state has 2"):
        layer(*make_frames(1), layer.init_state(2))


def test_a_state_of_another_layer_and_a_step_in_the_wrong_direction_are_refused() -> None:
    layer, x = make_layer(), make_frames(1)
    other = InPlaceLayer(WIDTH, HIDDEN_WIDTH, TTTConfig(learner="in_place", mini_batch_size=9))
    with pytest.raises(ValueError, match="The state belongs to another layer or configuration: "):
        layer(*x, other.init_state(3))
    layer(*x, layer.init_state(3))
    with pytest.raises(ValueError, match="inner_lr_scale=-1.0, but it must be a number, 0 or more"):
        layer(*x, inner_lr_scale=-1.0)


@pytest.mark.usefixtures("one_process")
def test_fsdp2s_cast_leaves_the_learner_in_float32() -> None:
    """Sharded as training does it, with a policy of its own, in a layer whose parameters are cast to bfloat16."""
    layer, plain, mesh = make_layer(torch.float32), make_layer(torch.float32), init_device_mesh("cpu", (1,))
    fully_shard(layer.learner, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))
    fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=False))
    state, parts = layer.init_state(3), []
    for piece in zip(*(x.split([10, 13], dim=1) for x in make_frames(23, dtype=torch.float32)), strict=True):
        result = layer(*piece, state)
        state = result.state
        parts.append(result.output)
    expected = plain(*make_frames(23, dtype=torch.float32)).output
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-5, atol=1e-5)
    torch.cat(parts, dim=1).square().sum().backward()
    expected.square().sum().backward()
    for sharded, parameter in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(sharded.grad.to_local(), parameter.grad, rtol=1e-4, atol=1e-4)


def test_every_parameter_has_a_gradient_after_one_step() -> None:
    layer, (hidden, embedded) = make_layer(fresh=True), make_frames(23)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for moved in ({"learner.convolutions.0"}, {"learner.convolutions.0", "learner.projections.0"}):
        optimizer.zero_grad()
        layer(hidden, embedded).output.sub(embedded).square().mean().backward()
        assert {name for name, p in layer.named_parameters() if p.grad.any()} == moved
        optimizer.step()


def test_it_is_no_layer_of_its_own() -> None:
    with pytest.raises(ValueError, match="learner='in_place' is a part of a feed-forward: make an InPlaceLayer"):
        TTTLayer(32, 2, TTTConfig(learner="in_place"))
