"""Laws of the model that learns end to end: a step a chunk and row, exact in any pieces, trained through its steps."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.rivals.end_to_end import EndToEndMoshi
from hf_moshi_ttt.rivals.end_to_end_state import EndToEndState
from hf_moshi_ttt.transformer import attention, codebook_linears, depth_transformer, rope
from hf_moshi_ttt.transformer.losses import target_weights, weighted_mean

from ..conftest import random_codes
from .test_configuration_end_to_end import make_config

SIZE = 5
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9, "equal_nan": True}


def make_model(**changes: Any) -> EndToEndMoshi:
    """Seeded, in float64, with fast weights that already do something."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 3, "sliding_window": 4, "fast_layers": 2}
    model = EndToEndMoshi(make_config(**{**small, "chunk_frames": SIZE, **changes})).double().eval()
    for weight in model.fast_weights():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def read(
    model: EndToEndMoshi, codes: Tensor, lengths: Sequence[int], state: EndToEndState | None = None
) -> tuple[Tensor, Tensor, EndToEndState]:
    """Logits of a stream that is read in pieces, late ones put in their places, and its state."""
    state, text, audio = state or model.init_state(len(codes)), [], []
    for piece in codes.split(list(lengths), dim=2):
        output = model(piece, state=state)
        assert output.state is not None
        state = output.state
        if audio:
            late = output.late_audio_logits
            audio[-1] = torch.cat([audio[-1][:, :, :-1], late.where(~late.isnan(), audio[-1][:, :, -1:])], dim=2)
        text.append(output.text_logits)
        audio.append(output.audio_logits)
    return torch.cat(text, 1), torch.cat(audio, 2), state


def reference(model: EndToEndMoshi, codes: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """One row, by torch's own optimizer on a copy of the weights: logits of the text and of codebook 0, and weights."""
    plain = copy.deepcopy(model.model)
    names, config = model.fast_names, model.config
    own = [plain.get_parameter(name) for name in names]
    optimizer, state = torch.optim.SGD(own, lr=config.inner_lr), plain.init_state(1)
    text, audio = [], []
    for chunk in codes.split(config.chunk_frames, dim=2):
        output = plain(chunk, labels=chunk, state=state)
        text.append(output.text_logits.detach())
        audio.append(output.audio_logits[:, 0].detach())
        state = output.state.detach()
        if chunk.shape[2] == config.chunk_frames:
            weights = target_weights(chunk, config)
            loss = config.text_loss_weight * weighted_mean(output.losses[:, :1], weights[:, :1])
            loss = loss + weighted_mean(output.losses[:, 1:], weights[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            norm = get_total_norm([weight.grad for weight in own if weight.grad is not None])
            clip_grads_with_norm_(own, config.max_inner_norm, norm - 1e-6)  # which it adds
            optimizer.step()
    return torch.cat(text, 1), torch.cat(audio, 1), [weight.detach() for weight in own]


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"max_inner_norm": 1e6, "inner_lr": 0.1}, {"fast_layers": 1}], ids=str)
def test_each_row_is_torchs_gradient_descent_on_its_own_loss(changes: dict[str, Any]) -> None:
    model = make_model(**changes)
    codes = random_codes(model.config, batch=2, frames=23)
    text, audio, state = read(model, codes, [23])
    for row in range(2):
        with torch.enable_grad():
            expected_text, expected_audio, weights = reference(model, codes[row : row + 1])
        torch.testing.assert_close(text[row : row + 1], expected_text, **EXACT)
        torch.testing.assert_close(audio[row : row + 1, 0], expected_audio, **EXACT)
        for start, delta, weight in zip(model.fast_weights(), state.deltas, weights, strict=True):
            torch.testing.assert_close(start + delta[row], weight, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[1] * 23, [5] * 4 + [3], [2, 9, 12], [4, 1, 1, 17]], ids=str)
@pytest.mark.parametrize("delays", [None, [0, 0, 2, 1, 2, 1, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1]], ids=["usual", "longer"])
def test_any_pieces_equal_the_whole(lengths: list[int], delays: list[int] | None) -> None:
    model = make_model(**({} if delays is None else {"delays": delays}))
    codes = random_codes(model.config, batch=2, frames=23)
    whole = model(codes, state=model.init_state(2))
    text, audio, state = read(model, codes, lengths)
    torch.testing.assert_close(text, whole.text_logits, **EXACT)
    if delays is None:
        torch.testing.assert_close(audio, whole.audio_logits, **EXACT)
    for name, tensor in state.named_tensors().items():
        torch.testing.assert_close(tensor, whole.state.named_tensors()[name], **EXACT)


@torch.no_grad()
def test_without_a_state_outputs_are_the_same() -> None:
    model = make_model()
    codes = random_codes(model.config, batch=2, frames=2 * SIZE)
    with_state, without = model(codes, labels=codes, state=model.init_state(2)), model(codes, labels=codes)
    assert torch.equal(with_state.losses, without.losses) and torch.equal(with_state.loss, without.loss)
    assert without.state is None and without.late_audio_logits is None


@torch.no_grad()
def test_rows_learn_apart_and_may_stand_at_different_frames() -> None:
    model = make_model()
    codes, other = (
        random_codes(model.config, batch=2, frames=21),
        random_codes(model.config, batch=2, frames=21, seed=1),
    )
    text, _, state = read(model, codes, [21])
    for row in range(2):
        alone, _, _ = read(model, codes[row : row + 1], [21])
        torch.testing.assert_close(text[row : row + 1], alone, **EXACT)
    changed = torch.stack([codes[0], other[1]])
    assert torch.equal(read(model, changed, [21])[0][0], text[0])
    # The second row starts anew after 3 frames: from then on it is a stream of its own.
    _, _, state = read(model, codes[:, :, :3], [3])
    state = state.reset(torch.tensor([False, True]))
    staggered, _, state = read(model, codes[:, :, 3:], [18], state)
    torch.testing.assert_close(staggered[0], text[0, 3:], **EXACT)
    fresh, _, own = read(model, codes[1:, :, 3:], [18])
    torch.testing.assert_close(staggered[1:], fresh, **EXACT)
    assert state.position.tolist() == [1, 3]
    for delta, alone in zip(state.deltas, own.deltas, strict=True):
        torch.testing.assert_close(delta[1:], alone, **EXACT)


@torch.no_grad()
@pytest.mark.parametrize("frame", [0, 4, 7, 16])
def test_future_leaves_the_past_bit_identical(frame: int) -> None:
    model = make_model()
    codes = random_codes(model.config, batch=1, frames=19)
    changed = codes.clone()
    changed[:, :, frame] = (changed[:, :, frame] + 1) % 32
    before, after = model(codes), model(changed)
    assert torch.equal(before.text_logits[:, : frame + 1], after.text_logits[:, : frame + 1])
    assert torch.equal(before.audio_logits[:, 0, :frame], after.audio_logits[:, 0, :frame])
    assert not torch.equal(before.text_logits[:, frame + 1], after.text_logits[:, frame + 1])


@torch.no_grad()
def test_what_is_learned_reaches_past_the_window() -> None:
    for inner_lr, remembers in ((1.0, True), (0.0, False)):
        model = make_model(inner_lr=inner_lr)
        codes = random_codes(model.config, batch=1, frames=30)
        changed = codes.clone()
        changed[:, :, 0] = (changed[:, :, 0] + 1) % 32
        same = torch.equal(model(codes).text_logits[:, -1], model(changed).text_logits[:, -1])
        assert same is not remembers


@torch.no_grad()
def test_a_fresh_model_without_inner_steps_is_plain_moshi_to_the_bit() -> None:
    config = make_config(inner_lr=0)
    torch.manual_seed(0)
    plain = MoshiTTTForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    model = EndToEndMoshi(config).eval()
    codes = random_codes(config, batch=2, frames=150)
    expected, found = plain(codes, labels=codes), model(codes, labels=codes)
    for name in ("text_logits", "losses", "loss", "text_loss", "audio_loss"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.audio_logits.nan_to_num(), expected.audio_logits.nan_to_num())
    assert found.diagnostics is None and model(codes, diagnostics=True).diagnostics == ()


@torch.no_grad()
def test_a_fresh_model_reads_its_first_chunk_as_plain_moshi_to_the_bit() -> None:
    config = make_config(chunk_frames=20)
    torch.manual_seed(0)
    model = EndToEndMoshi(config).eval()
    codes = random_codes(config, batch=2, frames=40)
    found, steady = model(codes), model(codes, inner_lr_scale=0.0)
    assert torch.equal(found.text_logits[:, :20], steady.text_logits[:, :20])
    assert not torch.equal(found.text_logits[:, 20:], steady.text_logits[:, 20:])


# Training


def outer_loss(model: EndToEndMoshi, codes: Tensor) -> Tensor:
    loss = model(codes, labels=codes).loss
    assert loss is not None
    return loss


def slope_by_differences(model: EndToEndMoshi, codes: Tensor, name: str, direction: Tensor, step: float) -> float:
    parameter, values = model.get_parameter(name), []
    with torch.no_grad():
        for sign in (1, -1):
            parameter += sign * step * direction
            values.append(float(outer_loss(model, codes)))
            parameter -= sign * step * direction
    return (values[0] - values[1]) / (2 * step)


NAMES = [
    "model.model.layers.2.mlp.fast_fc1", "model.model.layers.1.mlp.fast_fc2", "model.model.layers.1.mlp.fc1.weight",
    "model.model.layers.2.self_attn.qkv_proj.weight", "model.model.layers.0.mlp.fc2.weight", "model.lm_head.weight",
    "model.model.embed_audio.0.weight", "model.depth_decoder.layers.0.qkv_proj.0.weight", "model.model.norm.weight",
]  # fmt: skip


@pytest.mark.parametrize("max_norm", [1.0, 1e6], ids=["cut", "not cut"])
def test_outer_gradients_are_the_slopes_of_the_loss(max_norm: float) -> None:
    model = make_model(max_inner_norm=max_norm, inner_lr=0.3)
    codes = random_codes(model.config, batch=2, frames=4 * SIZE + 2)
    outer_loss(model, codes).backward()
    for name in NAMES:
        gradient = model.get_parameter(name).grad
        direction = torch.randn_like(gradient)
        direction = direction / direction.norm() + gradient / gradient.norm()
        slope = slope_by_differences(model, codes, name, direction, 1e-5)
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=2e-5), name


def test_first_order_leaves_out_the_steps_own_gradients_and_nothing_else() -> None:
    found, codes = [], None
    for second_order in (True, False):
        model = make_model(second_order=second_order, inner_lr=0.3)
        codes = random_codes(model.config, batch=2, frames=3 * SIZE)
        loss = outer_loss(model, codes)
        loss.backward()
        found.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (loss, full), (same_loss, first) = found
    torch.testing.assert_close(loss, same_loss, **EXACT)
    differing = [name for name in NAMES if not torch.allclose(full[name], first[name], rtol=1e-3)]
    assert differing == NAMES
    assert all(gradient is not None and gradient.isfinite().all() for gradient in first.values())


def test_gradients_through_a_carried_state_are_those_of_the_whole() -> None:
    model = make_model(inner_lr=0.3)
    codes = random_codes(model.config, batch=2, frames=17)
    parameters = list(model.parameters())
    whole = torch.autograd.grad(model(codes).text_logits.square().mean(), parameters, allow_unused=True)
    text, _, _ = read(model, codes, [3, 9, 1, 4])
    pieces = torch.autograd.grad(text.square().mean(), parameters, allow_unused=True)
    for one, other in zip(whole, pieces, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **EXACT)


def test_forward_writes_no_parameter_and_gives_the_same_with_and_without_gradients() -> None:
    model = make_model()
    codes = random_codes(model.config, batch=2, frames=17)
    before = copy.deepcopy(model.state_dict())
    with_gradients = model.train()(codes, labels=codes, state=model.init_state(2))
    with torch.no_grad():
        without = model.eval()(codes, labels=codes, state=model.init_state(2))
    torch.testing.assert_close(with_gradients.losses, without.losses, **EXACT)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert not any(tensor.requires_grad for tensor in without.state.named_tensors().values())
    assert not without.text_logits.requires_grad and not without.audio_logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_frozen_parameters_still_learn_at_test_time() -> None:
    model = make_model()
    codes = random_codes(model.config, batch=1, frames=12)
    expected = model(codes, state=model.init_state(1)).state
    model.requires_grad_(False)
    found = model(codes, state=model.init_state(1)).state
    for one, other in zip(found.deltas, expected.deltas, strict=True):
        torch.testing.assert_close(one, other, **EXACT)


def test_losses_are_those_at_the_labels_and_steps_are_the_codes() -> None:
    model = make_model()
    codes = random_codes(model.config, batch=2, frames=13)
    labels = codes.clone()
    labels[:, :, :6] = -100
    all_of_them, some = model(codes, labels=codes), model(codes, labels=labels, diagnostics=True)
    assert not some.losses[:, :, :6].any()
    assert torch.equal(some.losses[:, :, 6:], all_of_them.losses[:, :, 6:])
    weights = target_weights(labels, model.config)
    torch.testing.assert_close(some.audio_loss, weighted_mean(some.losses[:, 1:], weights[:, 1:]))
    assert len(some.diagnostics) == 2 and some.diagnostics[0].losses_B.shape == (2,)
    silent = model(codes, labels=labels, return_logits=False)
    assert silent.text_logits is None and silent.audio_logits is None and torch.equal(silent.losses, some.losses)


# What it does not do


def test_what_it_has_not_is_said() -> None:
    model = make_model()
    for name in ("generate", "save_pretrained", "push_to_hub", "step_with_logits", "gradient_checkpointing_enable"):
        with pytest.raises(AttributeError, match=f"is here to be compared with, and has no {name}"):
            getattr(model, name)
    assert not hasattr(model, "anything_else")


def test_its_weights_do_not_load_as_a_plain_model(tmp_path: Path) -> None:
    model = make_model().float()
    model.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="none of Moshi's .*moshi_ttt_end_to_end"):
        MoshiTTTForConditionalGeneration.from_pretrained(tmp_path)


def test_where_no_step_can_be_taken_it_says_so() -> None:
    model = make_model().float()
    codes = random_codes(model.config, batch=1, frames=6)
    with pytest.raises(ValueError, match=r"must both be \[B, K, T\]; got \[1, 17, 6\] and \[1, 17, 5\]"):
        model(codes, labels=codes[:, :, 1:])
    with pytest.raises(ValueError, match="codes must be int64"):
        model(codes.int())
    with pytest.raises(ValueError, match="codes have 1 rows, but the state has 2"):
        model(codes, state=model.init_state(2))
    longer = make_model(chunk_frames=SIZE + 1)
    with pytest.raises(ValueError, match="The state belongs to another layer or configuration: codes is"):
        model(codes, state=longer.init_state(1))
    with pytest.raises(ValueError, match="inner_lr_scale=-1.0, but it must be a number, 0 or more"):
        model(codes, inner_lr_scale=-1.0)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="autocast is on: use model.float"):
        model(codes)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"use torch.no_grad\(\), not inference mode"):
        model(codes)
    with pytest.raises(ValueError, match="window=False, but TTT-E2E reads chunks after the window"):
        model.init_state(1, window=False)
    with pytest.raises(ValueError, match="its weights are torch.bfloat16"):
        model.bfloat16()(codes)


def test_sharded_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_moshi_ttt.rivals.end_to_end.DTensor", torch.nn.Parameter)
    model = make_model()
    with pytest.raises(ValueError, match="FSDP has sharded TTT-E2E"):
        model(random_codes(model.config, batch=1, frames=6))


def test_on_a_gpu_it_reads_and_learns_as_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    codes, trained = random_codes(model.config, 2, 4 * SIZE), list(model.parameters())
    found = []
    for on_a_gpu in (False, True):
        if on_a_gpu:
            for module in (codebook_linears, depth_transformer, rope):
                monkeypatch.setattr(module, "counts_kernels", lambda _: True)
            for module in (attention, depth_transformer):
                monkeypatch.setattr(module, "may_write", lambda _: not torch.is_grad_enabled())
        with torch.no_grad():
            losses = model(codes, labels=codes).losses
        found.append([losses, *torch.autograd.grad(model(codes, labels=codes).loss, trained)])
    torch.testing.assert_close(found[0], found[1], **EXACT)
