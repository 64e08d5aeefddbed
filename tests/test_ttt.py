"""Laws 1 to 4 of the inner loop: fast == naive, causal, the same in any chunks, rows isolated."""

import itertools

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import TTTConfig
from hf_moshi_ttt.ttt import InnerTokens, inner_loss, naive_ttt
from hf_moshi_ttt.ttt_scan import ttt
from hf_moshi_ttt.ttt_layer import TTTLayer

WIDTH, HEADS, MINI_BATCH = 32, 2, 4  # heads narrower than 16 make the layer norm of a deep network ill-conditioned
VARIANTS = [
    dict(ttt_mlp_layers=1),
    dict(ttt_mlp_layers=1, preset="paper", forget="none", base_lr=1.0),
    dict(ttt_mlp_layers=2),
    dict(ttt_mlp_layers=2, preset="paper", forget="none", base_lr=0.1),
    dict(ttt_mlp_layers=2, step="constant", output_bias=False, initial_keep_factor=0.8),
    dict(ttt_mlp_layers=3, forget="none"),
    dict(ttt_mlp_layers=5),
]
CHUNKS = [[63], [1] * 63, [1, 2, 60], [4] * 15 + [3], [3, 1, 4, 5, 16, 17, 13, 4]]


def make_layer(dtype: torch.dtype = torch.float64, **options: object) -> TTTLayer:
    torch.manual_seed(1)
    config = TTTConfig(mini_batch_size=MINI_BATCH, ttt_mlp_expansion_factor=2, **options)
    layer = TTTLayer(WIDTH, HEADS, config).to(dtype)
    for name, parameter in layer.named_parameters():
        if "norm" in name or "bias" in name or name in ("o_proj.weight", "place_offset"):
            torch.nn.init.normal_(parameter, mean=float(name.endswith("norm_weight")), std=0.05)
    return layer


def make_input(frames: int, batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, frames, WIDTH, dtype=dtype, generator=torch.Generator().manual_seed(2))


def outputs_and_gradients(layer: TTTLayer, x: Tensor, form: object) -> list[Tensor]:
    leaf = x.clone().requires_grad_()
    z, _ = form(layer.inner_network(), layer.inner_tokens(leaf, None))  # type: ignore[operator]
    inner = [p for n, p in layer.named_parameters() if not n.startswith(("o_proj", "post_norm"))]
    grads = torch.autograd.grad(z.sin().sum(), [leaf, *inner], allow_unused=True)
    return [z, *[grad for grad in grads if grad is not None]]


@pytest.mark.parametrize("frames", [1, MINI_BATCH - 1, MINI_BATCH, MINI_BATCH + 1, 63])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_fast_equals_naive_with_gradients(options: dict, frames: int) -> None:
    layer, x = make_layer(**options), make_input(frames)
    for fast, naive in zip(
        outputs_and_gradients(layer, x, ttt), outputs_and_gradients(layer, x, naive_ttt), strict=True
    ):
        torch.testing.assert_close(fast, naive, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_fast_equals_naive_in_float32(options: dict) -> None:
    layer, x = make_layer(torch.float32, **options), make_input(63, dtype=torch.float32)
    tokens = layer.inner_tokens(x, None)
    fast, naive = ttt(layer.inner_network(), tokens)[0], naive_ttt(layer.inner_network(), tokens)[0]
    torch.testing.assert_close(fast, naive, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_fast_memory_equals_naive_memory(options: dict) -> None:
    layer, x = make_layer(**options), make_input(30)
    tokens = layer.inner_tokens(x, None)
    fast, naive = ttt(layer.inner_network(), tokens)[1], naive_ttt(layer.inner_network(), tokens)[1]
    for a, b in zip(
        (*fast.delta_weights, *fast.delta_biases), (*naive.delta_weights, *naive.delta_biases), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert max(delta.abs().max() for delta in fast.delta_weights) > 1e-3
    assert fast.place.tolist() == naive.place.tolist() == [2, 2, 2]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("place", range(2 * MINI_BATCH))
def test_future_leaves_the_past_bit_identical(options: dict, place: int) -> None:
    layer, x = make_layer(**options), make_input(4 * MINI_BATCH + 1)
    changed = x.clone()
    changed[:, place + 1 :] += 1
    before, after = layer(x).output, layer(changed).output
    assert torch.equal(before[:, : place + 1], after[:, : place + 1])
    assert not torch.equal(before[:, place + 1], after[:, place + 1])


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
def test_any_chunks_equal_the_whole(options: dict, chunks: list[int]) -> None:
    layer, x = make_layer(**options), make_input(63)
    whole = layer(x)
    state, outputs = None, []
    for piece in x.split(chunks, dim=1):
        step = layer(piece, state)
        state = step.state
        outputs.append(step.output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.output, rtol=1e-12, atol=1e-12)
    for name, tensor in state_tensors(whole.state).items():
        if not name.startswith("ring_"):  # rings may hold different padding where their rate is 0
            torch.testing.assert_close(state_tensors(state)[name], tensor, rtol=1e-12, atol=1e-12)


def test_rows_at_different_places_run_as_alone() -> None:
    layer, x = make_layer(ttt_mlp_layers=2), make_input(40, batch=2)
    started = layer(x[:1, :7]).state
    fresh = layer.init_state(1)
    both = type(started)(
        **{
            name: tuple(torch.cat(pair) for pair in zip(getattr(started, name), getattr(fresh, name), strict=True))
            for name in ("delta_weights", "delta_biases", "ring_inputs", "ring_grads")
        },
        ring_lr=torch.cat([started.ring_lr, fresh.ring_lr]),
        place=torch.cat([started.place, fresh.place]),
    )
    together = layer(torch.cat([x[:1, 7:30], x[1:, 7:30]]), both).output
    torch.testing.assert_close(together[:1], layer(x[:1, 7:30], started).output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together[1:], layer(x[1:, 7:30]).output, rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_carried_state() -> None:
    layer, x = make_layer(ttt_mlp_layers=2), make_input(20)
    whole = torch.autograd.grad(layer(x).output.square().sum(), layer.inner_weights[0])[0]
    first = layer(x[:, :9])
    second = layer(x[:, 9:], first.state)
    pieces = first.output.square().sum() + second.output.square().sum()
    torch.testing.assert_close(torch.autograd.grad(pieces, layer.inner_weights[0])[0], whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_memory_learns_a_fixed_map(depth: int) -> None:
    """A key's answer comes closer to its value after 375 frames (30 s) of a fixed random map."""
    torch.manual_seed(0)
    layer = TTTLayer(64, 1, TTTConfig(ttt_mlp_layers=depth))
    net = layer.inner_network()
    frames, width = 375, 64
    keys = torch.nn.functional.rms_norm(torch.randn(1, 1, 16, width), (width,))
    values = torch.randn(1, 1, 16, width)
    drawn = torch.randint(16, (frames,))
    tokens = InnerTokens(
        keys[:, :, drawn], keys[:, :, drawn], values[:, :, drawn], torch.full((1, 1, frames), 0.5 / width)
    )
    with torch.no_grad():
        _, state = ttt(net, tokens)
    losses = []
    for deltas in ([torch.zeros(())] * depth, state.delta_weights):
        x = keys
        for layer_index, (weight, delta) in enumerate(zip(net.weights, deltas, strict=True)):
            x = x @ (weight + delta)
            if layer_index < len(net.biases) and deltas is state.delta_weights:
                x = x + state.delta_biases[layer_index]
            if layer_index < depth - 1:
                x = torch.nn.functional.gelu(x, approximate="tanh")
        target = torch.nn.functional.layer_norm(values - keys, (width,))
        losses.append(inner_loss(net, x, target).mean().item() / width)
    assert losses[1] < 0.7 * losses[0], losses


def test_all_variants_are_distinct() -> None:
    outputs = [make_layer(**options)(make_input(20)).output for options in VARIANTS]
    for a, b in itertools.combinations(outputs, 2):
        assert not torch.equal(a, b)
