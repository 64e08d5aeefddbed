"""Both losses equal an explicit loop over frames; masked and unpredicted codes add nothing, with finite gradients."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.transformer.losses import (
    code_losses,
    codebook_losses,
    head_losses,
    mask_unpredicted,
    target_weights,
    weighted_mean,
)

from ..conftest import random_codes

DELAYS = [0, 0, 2, 1, 0, 1, 1]


def config(**changes: Any) -> MoshiTTTConfig:
    """Three codebooks with delays of 0, 2 and 1 frames."""
    return MoshiTTTConfig.from_preset("tiny", num_codebooks=3, delays=DELAYS, **changes)


def text_loss(logits_BTV: Tensor, codes_BT: Tensor, config: MoshiTTTConfig) -> Tensor:
    batch, length, _ = logits_BTV.shape
    labels = torch.full((batch, 7, length), -100)
    labels[:, 0] = codes_BT
    weights = target_weights(labels, config)
    assert not weights[:, 1:].any()
    return weighted_mean(code_losses(logits_BTV, codes_BT), weights[:, 0])


def audio_loss(logits_BQTV: Tensor, codes_BQT: Tensor, config: MoshiTTTConfig) -> Tensor:
    batch, _, length, _ = logits_BQTV.shape
    labels = torch.full((batch, 7, length), -100)
    labels[:, 1:4] = codes_BQT
    weights = target_weights(labels, config)
    assert not weights[:, :1].any()
    return weighted_mean(code_losses(logits_BQTV, mask_unpredicted(codes_BQT, config)), weights[:, 1:])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, absent: int) -> Tensor:
    """Codes below `high`, a third of them absent."""
    codes = torch.randint(high, shape, generator=torch.Generator().manual_seed(1))
    return codes.masked_fill(normal(*shape, seed=2) < -1, absent)


def nats(logits_V: Tensor, code: int) -> float:
    values = [float(x) for x in logits_V]
    return math.log(sum(math.exp(x) for x in values)) - values[code]


@pytest.mark.parametrize("absent", [-1, -100])
@pytest.mark.parametrize("padding_weight", [0.0, 0.25, 1.0, 3])
def test_text_loss_is_the_weighted_mean_of_a_loop(padding_weight: float, absent: int) -> None:
    logits, codes = normal(3, 20, 6), integers(6, 3, 20, absent=absent)
    total = weights = 0.0
    for row in range(3):
        for frame in range(20):
            code = int(codes[row, frame])
            if code >= 0:
                weight = padding_weight if code in (0, 3) else 1.0
                total += weight * nats(logits[row, frame], code)
                weights += weight
    loss = text_loss(logits, codes, config(text_padding_weight=padding_weight))
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)


@pytest.mark.parametrize("absent", [-1, -100])
@pytest.mark.parametrize("multiplier", [0.0, 1.0, 100])
def test_audio_loss_is_the_weighted_mean_of_a_loop(multiplier: float, absent: int) -> None:
    logits, codes = normal(2, 3, 9, 5), integers(5, 2, 3, 9, absent=absent)
    total = weights = 0.0
    for row in range(2):
        for codebook, delay in enumerate([0, 2, 1]):
            for frame in range(9 - delay):
                code = int(codes[row, codebook, frame])
                if code >= 0:
                    weight = multiplier if codebook == 0 else 1.0
                    total += weight * nats(logits[row, codebook, frame], code)
                    weights += weight
    loss = audio_loss(logits, codes, config(first_codebook_weight_multiplier=multiplier))
    assert float(loss) == pytest.approx(total / weights, rel=1e-5)


def test_the_losses_of_even_logits_are_the_logarithm_of_the_vocabulary() -> None:
    assert float(text_loss(torch.zeros(1, 4, 8), torch.tensor([[0, 5, 3, 7]]), config())) == pytest.approx(math.log(8))
    codes = torch.zeros(1, 3, 4, dtype=torch.int64)
    assert float(audio_loss(torch.zeros(1, 3, 4, 8), codes, config())) == pytest.approx(math.log(8))


def test_padding_ids_are_those_of_the_configuration() -> None:
    logits, codes = normal(1, 2, 8), torch.tensor([[5, 0]])
    changed = config(pad_token_id=6, end_pad_token_id=5, text_padding_weight=0.0)
    assert float(text_loss(logits, codes, changed)) == pytest.approx(nats(logits[0, 1], 0))


def test_code_losses_are_zero_where_a_code_is_absent() -> None:
    logits = normal(2, 2, 4)
    losses = code_losses(logits, torch.tensor([[1, -1], [-100, 3]]))
    expected = [[nats(logits[0, 0], 1), 0.0], [0.0, nats(logits[1, 1], 3)]]
    assert torch.allclose(losses, torch.tensor(expected))
    assert losses[0, 1] == losses[1, 0] == 0


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, codes = normal(2, 3, 9, 5).bfloat16(), integers(5, 2, 3, 9, absent=-1)
    assert torch.equal(audio_loss(logits, codes, config()), audio_loss(logits.float(), codes, config()))
    assert text_loss(logits[:, 0], codes[:, 0], config()).dtype == torch.float32


def test_the_last_frames_of_delayed_codebooks_have_no_prediction() -> None:
    codes = torch.arange(12).view(1, 3, 4)
    assert mask_unpredicted(codes, config())[0].tolist() == [[0, 1, 2, 3], [4, 5, -1, -1], [8, 9, 10, -1]]
    assert mask_unpredicted(codes[:, :, :1], config())[0].tolist() == [[0], [-1], [-1]]


@pytest.mark.parametrize("absent", [-1, -100])
def test_masked_text_is_exactly_zero_with_finite_gradients(absent: int) -> None:
    logits = normal(2, 5, 6).requires_grad_()
    loss = text_loss(logits, torch.full((2, 5), absent), config())
    assert loss.item() == 0.0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros(2, 5, 6))


def test_text_of_padding_alone_without_weight_is_zero() -> None:
    logits = normal(1, 3, 6).requires_grad_()
    loss = text_loss(logits, torch.tensor([[0, 3, 0]]), config(text_padding_weight=0.0))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros(1, 3, 6))


def test_only_predicted_codes_get_gradients() -> None:
    logits, codes = normal(2, 3, 6, 5).requires_grad_(), integers(5, 2, 3, 6, absent=-100)
    audio_loss(logits, codes, config()).backward()
    reached = logits.grad.abs().sum(-1) > 0
    assert torch.equal(reached, mask_unpredicted(codes, config()) >= 0)


def test_nan_logits_of_unpredicted_frames_change_neither_loss_nor_gradients() -> None:
    leaf, codes = normal(2, 3, 6, 5).requires_grad_(), integers(5, 2, 3, 6, absent=-1)
    loss = audio_loss(leaf, codes, config())
    (expected,) = torch.autograd.grad(loss, leaf)
    unpredicted = mask_unpredicted(torch.zeros_like(codes), config()) < 0
    with_nan = audio_loss(leaf.masked_fill(unpredicted[..., None], math.nan), codes, config())
    assert torch.equal(with_nan, loss)
    (gradient,) = torch.autograd.grad(with_nan, leaf)
    assert torch.equal(gradient, expected)


def test_the_models_own_nan_logits_leave_finite_gradients(make_model: Callable[..., Any]) -> None:
    model: MoshiTTTForConditionalGeneration = make_model()
    codes = random_codes(model.config, batch=2, frames=6)
    labels = codes.clone()
    labels[:, 0] = -100
    output = model(codes, labels=labels)
    assert output.audio_logits[:, 1:, -1].isnan().all()
    assert output.text_loss.item() == 0.0
    assert output.loss.item() == output.audio_loss.item() > 0
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.depth_decoder.get_parameter(next(iter(model.depth_decoder.state_dict()))).grad.abs().sum() > 0


def test_without_any_frame_to_learn_the_audio_loss_is_zero() -> None:
    codes = torch.full((2, 3, 6), -100)
    assert audio_loss(normal(2, 3, 6, 5), codes, config()).item() == 0.0


def test_chunks_change_nothing_and_keep_no_float32_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    codes, found = integers(500, 2, 3, 40, absent=-1), []
    for values in (2**24, 500 * 7):
        for limit in ("_CHUNK_VALUES", "_KEPT_VALUES"):
            monkeypatch.setattr(f"hf_moshi_ttt.transformer.losses.{limit}", values)
        logits, kept = normal(2, 3, 40, 500).bfloat16().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            losses = code_losses(logits, codes)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
        found.append((losses, gradient))
        copies = [x for x in kept if x.dtype == torch.float32 and x.numel() >= logits.numel()]
        assert bool(copies) == (values == 2**24)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("values", [2**24, 50 * 7])
def test_a_head_gives_the_same_losses_and_gradients_without_its_logits(
    monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    for limit in ("_CHUNK_VALUES", "_KEPT_VALUES"):
        monkeypatch.setattr(f"hf_moshi_ttt.transformer.losses.{limit}", values)
    torch.manual_seed(0)
    head, states, codes = torch.nn.Linear(4, 50, bias=False), normal(2, 40, 4), integers(50, 2, 40, absent=-1)
    found, kept = [], []
    for return_logits in (True, False):
        leaf, shapes = states.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=shapes: s.append(x.numel()) or x, lambda x: x):
            logits, losses = head_losses(head, leaf, codes, 50, return_logits)
        assert (logits is None) != return_logits
        found.append((losses, *torch.autograd.grad(losses.sum(), [leaf, head.weight])))
        kept.append(max(shapes))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert (kept[1] < 2 * 40 * 50) == (values == 50 * 7)


@pytest.mark.parametrize("values", [2**24, 3 * 50 * 7])
def test_codebooks_at_once_have_the_losses_of_each_head(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    for limit in ("_CHUNK_VALUES", "_KEPT_VALUES"):
        monkeypatch.setattr(f"hf_moshi_ttt.transformer.losses.{limit}", values)
    weights, states = normal(3, 4, 50).requires_grad_(), normal(3, 40, 4).requires_grad_()
    codes, chunks = integers(50, 3, 40, absent=-1), []

    def heads(rows: Tensor) -> Tensor:
        chunks.append(rows.shape)
        return rows @ weights

    losses = codebook_losses(heads, states, codes, 50)
    assert len(chunks) == (1 if values == 2**24 else 6)
    expected = torch.stack([code_losses(states[q] @ weights[q], codes[q]) for q in range(3)])
    torch.testing.assert_close(losses, expected)
    found, true = (torch.autograd.grad(x.square().sum(), [weights, states]) for x in (losses, expected))
    for own, other in zip(found, true, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_chunks_are_larger_on_a_gpu() -> None:
    chunks, states = [], torch.empty(8, 3000, 4, device="meta", requires_grad=True)

    def heads(rows: Tensor) -> Tensor:
        chunks.append(rows.shape[1])
        return rows @ rows.new_empty(8, 4, 2048)

    codebook_losses(heads, states, torch.empty(8, 3000, dtype=torch.int64, device="meta"), 2048)
    assert chunks == [2048, 952]
