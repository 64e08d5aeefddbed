"""The TTT layer as a module of its own: it stands alone, starts at zero, and keeps its inner loop in float32."""

import pytest
import torch

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.ttt_layer import TTTLayer


def make_layer(**options: object) -> TTTLayer:
    torch.manual_seed(0)
    return TTTLayer(32, 2, TTTConfig(mini_batch_size=4, **options))


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
        layer = TTTLayer(128, 2, TTTConfig(ttt_mlp_layers=depth, **options))
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
    assert layer.learner.inner_network().place_weights_C.tolist() == pytest.approx(expected)
    with torch.no_grad():
        layer.learner.place_offset.copy_(torch.tensor([0.0, 0.5, -5.0, 0.0]))
    assert layer.learner.inner_network().place_weights_C.tolist() == pytest.approx(
        [expected[0], expected[1] + 0.5, 0, expected[3]]
    )


def test_keep_factor_shrinks_what_was_learned() -> None:
    kept, forgotten = make_layer(forget="none"), make_layer(forget="learned", initial_keep_factor=0.5)
    forgotten.load_state_dict(kept.state_dict(), strict=False)
    assert forgotten.learner.inner_network().keep_H.tolist() == pytest.approx([0.5, 0.5])
    x = torch.randn(1, 8, 32)
    one, two = (layer(x[:, :4]).state.delta_weights[0] for layer in (kept, forgotten))
    assert torch.equal(one, two)  # nothing was learned before the first mini-batch
    step = kept(x).state.delta_weights[0] - one
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
