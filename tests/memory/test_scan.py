"""Laws 1 to 4 of the inner loop: fast == naive, causal, the same in any chunks, rows isolated; and what it tells."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.layer import TTTLayer
from hf_moshi_ttt.memory.naive import (
    InnerTokens,
    _naive_gradient,
    _with_learned,
    inner_loss,
    inner_target,
    key_dependent_share,
    layer_norm,
    naive_ttt,
)
from hf_moshi_ttt.memory.scan import ttt

from ..fixtures.learner_laws import (
    diagnostics_whole_and_in_chunks,
    gradients_whole_and_in_chunks,
    require_rows_apart,
    require_state_unchanged,
)
from ..fixtures.ttt_cases import MINI_BATCH, OTHERS, STEPPING, float64_rule, make_input, make_layer

pytestmark = pytest.mark.usefixtures(float64_rule.__name__)
EVERY = [*STEPPING, *OTHERS]
CHUNKS = [[63], [1] * 63, [1, 2, 60], [4] * 15 + [3], [3, 1, 4, 5, 16, 17, 13, 4]]


def inner_tokens(layer: TTTLayer, x: Tensor) -> InnerTokens:
    return layer.learner.inner_tokens(*layer.project(x), None)


def outputs_and_gradients(layer: TTTLayer, x: Tensor, form: Any) -> list[Tensor]:
    """z, and the gradients of a function of z and of what was learned by the input and every parameter before z."""
    leaf = x.clone().requires_grad_()
    z, state = form(layer.learner.inner_network(), inner_tokens(layer, leaf))
    learned = sum(delta.cos().sum() for delta in (*state.delta_weights, *state.delta_biases))
    inner = {n: p for n, p in layer.named_parameters() if not n.startswith(("o_proj", "post_norm"))}
    grads = torch.autograd.grad(z.sin().sum() + learned, [leaf, *inner.values()], allow_unused=True)
    unused = {name for name, grad in zip(inner, grads[1:], strict=True) if grad is None}
    assert unused <= ({"learner.keep_logit"} if x.shape[1] < MINI_BATCH else set()), unused
    return [z, *[grad for grad in grads if grad is not None]]


@pytest.mark.parametrize("frames", [1, MINI_BATCH - 1, MINI_BATCH, MINI_BATCH + 1, 63])
@pytest.mark.parametrize("options", STEPPING, ids=str)
def test_fast_equals_naive_with_gradients(options: dict, frames: int) -> None:
    layer, x = make_layer(**options), make_input(frames)
    both = (outputs_and_gradients(layer, x, form) for form in (ttt, naive_ttt))
    for fast, naive in zip(*both, strict=True):
        torch.testing.assert_close(fast, naive, rtol=0, atol=1e-10 * scale_of(naive))


def scale_of(values: Tensor) -> float:
    return max(1.0, float(values.detach().abs().max()))


@pytest.mark.parametrize("options", STEPPING, ids=str)
def test_fast_is_as_exact_as_naive_in_float32(options: dict) -> None:
    """Within 1e-5 of the float64 truth, or where the naive form is not (an ill-conditioned sum), as near as it is."""
    true, fast, naive = (
        outputs_and_gradients(make_layer(dtype, **options), make_input(63, dtype=dtype), form)
        for dtype, form in ((torch.float64, naive_ttt), (torch.float32, ttt), (torch.float32, naive_ttt))
    )
    for truth, own, other in zip(true, fast, naive, strict=True):
        error, naive_error = ((x - truth).detach().abs().max() / scale_of(truth) for x in (own, other))
        assert error < max(1e-5, 2.5 * naive_error)


@pytest.mark.parametrize("options", STEPPING, ids=str)
def test_fast_memory_equals_naive_memory(options: dict) -> None:
    layer, x = make_layer(**options), make_input(30)
    net, tokens = layer.learner.inner_network(), inner_tokens(layer, x)
    fast, naive = ttt(net, tokens)[1], naive_ttt(net, tokens)[1]
    assert len(fast.delta_weights) == (1 if options.get("update") == "last" else options["ttt_mlp_layers"])
    for a, b in zip(
        (*fast.delta_weights, *fast.delta_biases), (*naive.delta_weights, *naive.delta_biases), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert max(delta.abs().max() for delta in fast.delta_weights) > 1e-3
    assert fast.position.tolist() == naive.position.tolist() == [30 % net.mini_batch_size] * 3


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("position", range(2 * MINI_BATCH))
def test_future_leaves_the_past_bit_identical(options: dict, position: int) -> None:
    layer, x = make_layer(**options), make_input(4 * MINI_BATCH + 1)
    changed = x.clone()
    changed[:, position + 1 :] += 1
    before, after = layer(x).output, layer(changed).output
    assert torch.equal(before[:, : position + 1], after[:, : position + 1])
    assert not torch.equal(before[:, position + 1], after[:, position + 1])


@pytest.mark.parametrize("options", EVERY, ids=str)
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
    for name, tensor in whole.state.named_tensors().items():
        if not name.startswith("ring_"):  # rings may hold different padding where their rate is 0
            torch.testing.assert_close(state.named_tensors()[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_rows_at_different_places_run_as_alone(options: dict) -> None:
    """Row 0 has heard 7 frames, row 1 none; then both hear 23, at once and frame by frame."""
    layer, x = make_layer(**options), make_input(40, batch=2)
    started, fresh = layer(x[:1, :7]).state, layer.init_state(1)
    both = started.map(lambda name, own: torch.cat([own, fresh.named_tensors()[name].to(own.dtype)]))
    mixed = torch.cat([x[:1, 7:30], x[1:, 7:30]])
    alone = [layer(x[:1, 7:30], started).output, layer(x[1:, 7:30]).output]
    together = layer(mixed, both).output
    state, frames = both, []
    for frame in mixed.split(1, dim=1):
        step = layer(frame, state)
        state = step.state
        frames.append(step.output)
    for found in (together, torch.cat(frames, dim=1)):
        torch.testing.assert_close(found, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_rows_do_not_touch_each_other(options: dict) -> None:
    require_rows_apart(make_layer(**options), make_input(30))


@pytest.mark.parametrize("chunks", [[9, 11], [4, 1, 1, 1, 1, 12], [8, 12]], ids=str)
@pytest.mark.parametrize("options", STEPPING, ids=str)
def test_gradients_flow_through_carried_state(options: dict, chunks: list[int]) -> None:
    layer = make_layer(**options)
    parameters = [p for n, p in layer.named_parameters() if n.startswith("learner.inner_weights")]
    for a, b in gradients_whole_and_in_chunks(layer, make_input(20), parameters, chunks):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_a_state_is_not_changed_by_the_call_that_continues_it() -> None:
    require_state_unchanged(make_layer(ttt_mlp_layers=2), make_input(20))


def losses_by_definition(layer: TTTLayer, x: Tensor) -> list[Tensor]:
    """Inner losses of every frame with W_0, before and after its step, by explicit weights."""
    net, tokens = layer.learner.inner_network(), inner_tokens(layer, x)
    target, size, first = inner_target(net, tokens.k, tokens.v), net.mini_batch_size, net.first_learned
    initial = [w.expand(len(x), *w.shape) for w in (*net.weights[first:], *net.biases[first:])]
    found: list[list[Tensor]] = [[], [], []]
    for t in range(x.shape[1]):
        begin = t // size * size
        heard = naive_ttt(net, InnerTokens(*(value[:, :, :begin] for value in tokens)))[1] if begin else None
        deltas = (*heard.delta_weights, *heard.delta_biases) if heard else [0.0] * len(initial)
        start = [w + d for w, d in zip(initial, deltas, strict=True)]
        sums = [[torch.zeros_like(w) for w in start]]
        for s in range(begin, t + 1):
            grads = _naive_gradient(net, start, tokens.k[:, :, s : s + 1], target[:, :, s : s + 1])
            sums.append([total + tokens.lr[:, :, s, None, None] * g for total, g in zip(sums[-1], grads, strict=True)])
        c = [torch.zeros(()), *net.position_weights_C]
        before, after = (
            [w - c[t - begin + later] * total for w, total in zip(start, sums[t - begin + later], strict=True)]
            for later in (0, 1)
        )
        for kind, weights in enumerate((initial, before, after)):
            loss = inner_loss(net, _with_learned(net, tokens.k[:, :, t : t + 1], weights), target[:, :, t : t + 1])
            found[kind].append(loss * 2 / target.shape[-1])
    return [torch.cat(losses, dim=2) for losses in found]


@pytest.mark.parametrize("options", STEPPING, ids=str)
def test_diagnostics_are_the_losses_of_the_definition(options: dict) -> None:
    layer, x = make_layer(**options), make_input(14, batch=2)
    expected = losses_by_definition(layer, x)
    found = layer(x, diagnostics=True).diagnostics
    for name, losses in zip(("loss_initial", "loss_before", "loss_after"), expected, strict=True):
        torch.testing.assert_close(getattr(found, name), losses, rtol=1e-10, atol=1e-10)
    assert not found.loss_after.requires_grad


@pytest.mark.parametrize("options", EVERY, ids=str)
@pytest.mark.parametrize("chunks", [[1] * 23, [5, 1, 17]], ids=str)
def test_diagnostics_do_not_depend_on_chunks(options: dict, chunks: list[int]) -> None:
    whole, found = diagnostics_whole_and_in_chunks(make_layer(**options), make_input(23), chunks)
    if whole.delta_ratio is not None:
        torch.testing.assert_close(found[-1].delta_ratio, whole.delta_ratio)
    assert torch.isnan(found[1].key_dependent_share).all() == (chunks[1] == 1)


@pytest.mark.parametrize("options", STEPPING, ids=str)
def test_key_dependent_share_is_that_of_the_keys_asked_of_what_was_committed(options: dict) -> None:
    layer, x = make_layer(**options), make_input(3 * MINI_BATCH)
    net, tokens, result = layer.learner.inner_network(), inner_tokens(layer, x), layer(x, diagnostics=True)
    deltas = (*result.state.delta_weights, *result.state.delta_biases)
    start = (*net.weights[net.first_learned :], *net.biases[net.first_learned :])
    learned = [w + d for w, d in zip(start, deltas, strict=True)]
    answers = layer_norm(_with_learned(net, tokens.k, learned), net.norm_weight_HF, net.norm_bias_HF)
    torch.testing.assert_close(result.diagnostics.key_dependent_share, key_dependent_share(answers))
    weights = (result.state.delta_weights, start[: len(result.state.delta_weights)])
    norms = [sum(w.square().sum((-2, -1)) for w in side).sqrt() for side in weights]
    torch.testing.assert_close(result.diagnostics.delta_ratio, norms[0] / norms[1])


def test_loss_of_the_diagnostics_is_the_inner_loss() -> None:
    layer, x = make_layer(ttt_mlp_layers=1), make_input(3)
    net, tokens = layer.learner.inner_network(), inner_tokens(layer, x)
    output = tokens.k @ net.weights[0] + net.biases[0]
    loss = inner_loss(net, output, inner_target(net, tokens.k, tokens.v))
    found = layer(x, diagnostics=True).diagnostics
    torch.testing.assert_close(found.loss_initial, loss * 2 / output.shape[-1])
    torch.testing.assert_close(found.loss_before[:, :, 0], found.loss_initial[:, :, 0])


def test_all_variants_are_distinct() -> None:
    outputs = [make_layer(**options)(make_input(20)).output for options in EVERY]
    for a, b in itertools.combinations(outputs, 2):
        assert not torch.equal(a, b)
