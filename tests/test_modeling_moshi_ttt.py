"""Laws 2, 3, 5 and 7 of the whole model: causal, the same in any chunks, plain Moshi when fresh, saved and loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration, MoshiTTTOutput
from hf_moshi_ttt.transformer.losses import code_losses, mask_unpredicted

from .conftest import random_codes

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
IN_PLACE = {"learner": "in_place", "layers": "all"}
TTT_VARIANTS = [None, {"layers": "all"}, {"layers": [0, 3], "ttt_mlp_layers": 1}, IN_PLACE]
CLOSE = dict(rtol=2e-5, atol=2e-5, equal_nan=True)


def in_chunks(
    model: MoshiTTTForConditionalGeneration, codes: torch.Tensor, chunks: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a stream that is read in pieces, with each piece's late logits put into the piece before."""
    state, text, audio = model.init_state(codes.shape[0]), [], []
    for piece in codes.split(chunks, dim=2):
        output = model(piece, state=state)
        state = output.state
        if audio:
            late = output.late_audio_logits
            audio[-1][:, :, -1:] = torch.where(late.isnan(), audio[-1][:, :, -1:], late)
        text.append(output.text_logits)
        audio.append(output.audio_logits)
    return torch.cat(text, 1), torch.cat(audio, 2)


@torch.no_grad()
@pytest.mark.parametrize("ttt", TTT_VARIANTS, ids=str)
@pytest.mark.parametrize("frame", [0, 5, 16, 30, 59])
def test_future_leaves_the_past_bit_identical(make_model: MakeModel, ttt: dict | None, frame: int) -> None:
    model = make_model(ttt=ttt)
    codes = random_codes(model.config, batch=2, frames=60)
    changed = codes.clone()
    changed[:, :, frame] = (changed[:, :, frame] + 1) % 32
    before, after = model(codes), model(changed)
    assert torch.equal(before.text_logits[:, : frame + 1], after.text_logits[:, : frame + 1])
    assert torch.equal(before.audio_logits[:, 0, :frame], after.audio_logits[:, 0, :frame])
    reach = max(0, frame - 1)
    assert torch.equal(before.audio_logits[:, 1:, :reach], after.audio_logits[:, 1:, :reach])
    if frame < 59:
        assert not torch.equal(before.text_logits[:, frame + 1], after.text_logits[:, frame + 1])


@torch.no_grad()
@pytest.mark.parametrize("ttt", TTT_VARIANTS, ids=str)
@pytest.mark.parametrize("chunks", [[150], [1, 2, 147], [16] * 9 + [6], [37, 1, 1, 111], [15, 17, 118]], ids=str)
def test_any_chunks_equal_the_whole(make_model: MakeModel, ttt: dict | None, chunks: list[int]) -> None:
    model = make_model(ttt=ttt)
    codes = random_codes(model.config, batch=2, frames=150)  # the window is 16 frames
    whole = model(codes)
    text, audio = in_chunks(model, codes, chunks)
    torch.testing.assert_close(text, whole.text_logits, **CLOSE)
    torch.testing.assert_close(audio, whole.audio_logits, **CLOSE)


@pytest.mark.parametrize("delays", [None, [0, 0, 2, 1, 2, 1, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1]], ids=["usual", "longer"])
def test_losses_are_the_same_without_logits(make_model: MakeModel, delays: list[int] | None) -> None:
    model = make_model(**({} if delays is None else {"delays": delays}))
    codes, found = random_codes(model.config, batch=2, frames=30), []
    for return_logits in (True, False):
        output = model(codes, labels=codes, state=model.init_state(2), return_logits=return_logits)
        logits = (output.text_logits, output.audio_logits, output.late_audio_logits)
        assert [x is None for x in logits] == [not return_logits] * 3
        output.loss.backward()
        found.append((output.losses, *(p.grad for p in model.parameters() if p.grad is not None)))
        if return_logits:
            own = mask_unpredicted(codes[:, 1:9], model.config)
            torch.testing.assert_close(output.losses[:, 1:], code_losses(output.audio_logits, own))
        model.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="return_logits=False leaves the losses alone: give it with labels."):
        model(codes, return_logits=False)


@torch.no_grad()
def test_chunks_equal_the_whole_with_longer_delays(make_model: MakeModel) -> None:
    model = make_model(delays=[0, 0, 2, 1, 2, 1, 1, 1, 1, 0, 1, 1, 1, 2, 1, 1, 1])
    codes = random_codes(model.config, batch=1, frames=40)
    whole = model(codes).audio_logits
    state, seen = model.init_state(1), torch.full_like(whole, torch.nan)
    for start in range(0, 40, 5):
        output = model(codes[:, :, start : start + 5], state=state)
        state = output.state
        seen[:, :, start : start + 5] = output.audio_logits
        if start:
            late = output.late_audio_logits
            seen[:, :, start - 2 : start] = torch.where(late.isnan(), seen[:, :, start - 2 : start], late)
        else:
            assert output.late_audio_logits.isnan().all()
    torch.testing.assert_close(seen, whole, **CLOSE)


@torch.no_grad()
def test_memory_reaches_past_the_window(make_model: MakeModel) -> None:
    """Without TTT, 4 layers of window 16 see 60 frames back and the delays 2 more; with TTT all is remembered."""
    for ttt, remembers in ((None, False), ({}, True), (IN_PLACE, True)):
        model = make_model(ttt=ttt)
        codes = random_codes(model.config, batch=1, frames=120)
        changed = codes.clone()
        changed[:, :, 0] = (changed[:, :, 0] + 1) % 32
        same = torch.equal(model(codes).text_logits[:, -1], model(changed).text_logits[:, -1])
        assert same is not remembers


@torch.no_grad()
@pytest.mark.parametrize("learner", ["ttt", "in_place"])
def test_fresh_model_equals_plain_moshi_bit_for_bit(make_model: MakeModel, tmp_path: Path, learner: str) -> None:
    plain = make_model(ttt=None)
    plain.save_pretrained(tmp_path)
    fresh = MoshiTTTForConditionalGeneration.from_pretrained(
        tmp_path, ttt={"layers": "all", "mini_batch_size": 4, "learner": learner}
    ).eval()
    assert len(fresh.config.ttt_layer_indices) == 4
    codes = random_codes(plain.config, batch=2, frames=50)
    assert_same_logits(fresh(codes), plain(codes))
    stream = plain.init_state(2), fresh.init_state(2)
    for frame in range(20):
        steps = [m.step_with_logits(codes[:, :, frame], s) for m, s in zip((plain, fresh), stream, strict=True)]
        stream = steps[0].state, steps[1].state
        assert torch.equal(steps[0].text_logits, steps[1].text_logits)


@torch.no_grad()
def test_one_seed_gives_the_same_model_with_and_without_ttt(make_model: MakeModel) -> None:
    plain, fresh = make_model(ttt=None), make_model(fresh=True, ttt={"layers": "all"})
    codes = random_codes(plain.config, batch=2, frames=50)
    assert_same_logits(fresh(codes), plain(codes))
    projections = [layer.ttt.q_proj.weight for layer in fresh.model.layers]
    assert not torch.equal(projections[0], projections[1])


@torch.no_grad()
@pytest.mark.parametrize("ttt", [{}, IN_PLACE], ids=str)
def test_closed_gate_equals_plain_moshi_bit_for_bit(make_model: MakeModel, ttt: dict) -> None:
    trained, plain = make_model(ttt=ttt), make_model(ttt=None)
    plain.load_state_dict({k: v for k, v in trained.state_dict().items() if k in plain.state_dict()})
    codes = random_codes(plain.config, batch=2, frames=50)
    assert not torch.equal(trained(codes).text_logits, plain(codes).text_logits)
    for layer in trained.model.layers:
        if layer.has_ttt:
            layer.ttt_gate.weight.zero_()
    assert_same_logits(trained(codes), plain(codes))


def assert_same_logits(a: MoshiTTTOutput, b: MoshiTTTOutput) -> None:
    assert torch.equal(a.text_logits, b.text_logits)
    assert torch.equal(a.audio_logits.nan_to_num(), b.audio_logits.nan_to_num())


@pytest.mark.parametrize("ttt", [{}, IN_PLACE], ids=str)
def test_training_step_of_ttt_alone_changes_ttt_alone(make_model: MakeModel, ttt: dict) -> None:
    model = make_model(fresh=True, ttt=ttt)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".ttt" in name)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    codes = random_codes(model.config, batch=2, frames=40)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # the factor that is zero moves in the first step, everything else in the second
        optimizer.zero_grad()
        model(codes, labels=codes).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) is (".ttt" not in name), name


@pytest.mark.parametrize("ttt", [*({"ttt_mlp_layers": depth} for depth in (1, 2, 5)), IN_PLACE], ids=str)
def test_gradients_of_every_parameter_are_finite_and_not_zero(make_model: MakeModel, ttt: dict) -> None:
    model = make_model(ttt=ttt).train()
    codes = random_codes(model.config, batch=2, frames=40, absent=0)
    model(codes, labels=codes).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("ttt", [{}, IN_PLACE], ids=str)
def test_forward_writes_no_parameter_and_needs_no_mode(make_model: MakeModel, ttt: dict) -> None:
    model = make_model(ttt=ttt)
    codes = random_codes(model.config, batch=2, frames=40)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        evaluated = model.eval()(codes)
        state = model(codes, state=model.init_state(2)).state
        model.step_with_logits(codes[:, :, 0], state)
    trained = model.train()(codes)
    assert_same_logits(evaluated, trained)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("ttt", [{}, IN_PLACE], ids=str)
def test_gradient_checkpointing_changes_nothing(make_model: MakeModel, ttt: dict) -> None:
    codes, gradients = None, []
    for checkpointing in (False, True):
        model = make_model(ttt=ttt).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        codes = random_codes(model.config, batch=2, frames=40)
        model(codes, labels=codes).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_save_and_load_give_the_same_logits(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(text_stream="pad")
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    codes = random_codes(model.config, batch=2, frames=40)
    loaded = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path)
    own = [config.to_dict() for config in (loaded.config, model.config)]
    assert own[0].keys() == own[1].keys()
    assert all(own[0][key] == own[1][key] for key in MoshiTTTConfig.own_keys() - {"ttt", "depth_decoder_config"})
    assert all(own[0]["ttt"][key] == own[1]["ttt"][key] for key in type(model.config.ttt).own_keys())
    assert_same_logits(loaded(codes), model(codes))
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MoshiTTTConfig)
    assert_same_logits(AutoModel.from_pretrained(tmp_path)(codes), model(codes))
    assert json.loads((tmp_path / "config.json").read_text())["ttt"]["mini_batch_size"] == 4


@torch.no_grad()
def test_bfloat16_model_keeps_its_in_place_memory_in_float32(make_model: MakeModel, tmp_path: Path) -> None:
    make_model(ttt=IN_PLACE).save_pretrained(tmp_path)
    model = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    layer = model.model.layers[1]
    assert layer.mlp.fc2.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in layer.ttt.parameters()} == {torch.float32}
    output = model(random_codes(model.config, 1, 20), state=model.init_state(1))
    assert output.text_logits.dtype == torch.bfloat16
    assert output.state.memory[0].delta_weights.dtype == torch.float32


@torch.no_grad()
def test_bfloat16_model_keeps_its_memory_in_float32(make_model: MakeModel, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    model = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    layer = next(layer for layer in model.model.layers if layer.has_ttt)
    assert layer.mlp.fc1.weight.dtype == layer.ttt.q_proj.weight.dtype == torch.bfloat16
    assert layer.ttt.learner.slow_weights[0].dtype == layer.ttt_gate.weight.dtype == torch.float32
    output = model(random_codes(model.config, 1, 20), state=model.init_state(1))
    assert output.text_logits.dtype == torch.bfloat16
    assert output.state.memory[0].fast_weights.dtype == torch.float32
    assert output.state.window[0].keys.dtype == torch.bfloat16


@torch.no_grad()
def test_hidden_states_on_request(make_model: MakeModel) -> None:
    model = make_model()
    codes = random_codes(model.config, 1, 20)
    output = model(codes, output_hidden_states=True)
    assert len(output.hidden_states) == 5 and model(codes).hidden_states is None
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert torch.equal(model.lm_head(output.last_hidden_state), output.text_logits)
    assert isinstance(model(codes, return_dict=False), tuple)


def test_embeddings_cannot_be_resized(make_model: MakeModel) -> None:
    model = make_model()
    assert model.get_input_embeddings() is model.model.embed_text and model.get_output_embeddings() is model.lm_head
    with pytest.raises(ValueError, match="cannot be resized: their last row is the initial token"):
        model.resize_token_embeddings(100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda codes: codes[:, :16], r"codes must be int64 \[B, 17, T >= 1\]; got torch.int64 \[2, 16, 9\]"),
        (lambda codes: codes[0], r"codes must be int64"),
        (lambda codes: codes.int(), r"got torch.int32 \[2, 17, 9\]"),
        (lambda codes: codes[:, :, :0], r"got torch.int64 \[2, 17, 0\]"),
        (
            lambda codes: codes.index_fill(1, torch.tensor([3]), 33),
            r"codes must lie in -1..64 \(text\) and -1..32 \(audio\)",
        ),
        (lambda codes: codes.index_fill(1, torch.tensor([0]), -2), r"codes must lie in"),
    ],
)
def test_bad_codes_are_refused(make_model: MakeModel, change: Callable, message: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model(change(random_codes(model.config, batch=2, frames=9)))


def test_bad_state_and_labels_are_refused(make_model: MakeModel) -> None:
    model = make_model()
    codes = random_codes(model.config, batch=2, frames=9)
    with pytest.raises(ValueError, match="codes have 2 rows, but the state has 3"):
        model(codes, state=model.init_state(3))
    with pytest.raises(ValueError, match=r"labels have shape \[2, 17, 8\], but the codes \[2, 17, 9\]"):
        model(codes, labels=codes[:, :, :8])
    with pytest.raises(ValueError, match="labels must lie below"):
        model(codes, labels=codes + 10**6)
    partial = model.step_with_logits(torch.full((2, 17), -1).index_fill(1, torch.arange(9), -2), model.init_state(2))
    with pytest.raises(ValueError, match="last frame is not complete"):
        model(codes, state=partial.state)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu_in_training_chunks_and_steps(make_model: MakeModel) -> None:
    codes = random_codes(make_model().config, batch=2, frames=40, absent=0)
    found = []
    for device in ("cpu", "cuda"):
        model = make_model().to(device)
        output = model(codes.to(device), labels=codes.to(device))
        output.loss.backward()
        state = model(codes[:, :, :30].to(device), state=model.init_state(2)).state
        step = model.step_with_logits(codes[:, :, 30].to(device), state)
        weight = model.model.layers[1].ttt.learner.slow_weights[0]
        found.append([output.loss, weight.grad, step.text_logits, step.state.memory[0].fast_weights])
    for cpu, cuda in zip(*found, strict=True):
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_diagnostics_are_told_for_each_ttt_layer_and_change_nothing(make_model: MakeModel) -> None:
    model = make_model(ttt={"layers": [0, 2]})
    codes = random_codes(model.config, batch=2, frames=21)
    silent, told = model(codes), model(codes, diagnostics=True)
    assert_same_logits(silent, told)
    assert silent.diagnostics is None and len(told.diagnostics) == 2
    for index, own in zip((0, 2), told.diagnostics, strict=True):
        assert own.loss_before.shape == (2, 2, 21)
        assert torch.equal(own.gate, torch.tanh(model.model.layers[index].ttt_gate.weight))
    state, frames = model.init_state(2), []
    for t in range(21):
        step = model.step_with_logits(codes[:, :, t], state, diagnostics=True)
        state = step.state
        frames.append(step.diagnostics)
    for layer in range(2):
        for name in ("loss_before", "loss_after"):
            streamed = torch.cat([getattr(told[layer], name) for told in frames], dim=2)
            torch.testing.assert_close(streamed, getattr(told.diagnostics[layer], name), rtol=1e-3, atol=1e-4)
        streamed = torch.cat([told[layer].branch_to_residual for told in frames], dim=1)
        torch.testing.assert_close(streamed, told.diagnostics[layer].branch_to_residual, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_branch_to_residual_is_measured_where_the_branch_is_added(make_model: MakeModel) -> None:
    model, seen = make_model(), {}
    layer = next(layer for layer in model.model.layers if layer.has_ttt)
    layer.ttt_norm.register_forward_hook(lambda _, inputs, __: seen.update(residual=inputs[0]))
    layer.ttt.register_forward_hook(lambda _, __, output: seen.update(branch=output.output))
    (told,) = model(random_codes(model.config, batch=2, frames=9), diagnostics=True).diagnostics
    branch = torch.tanh(layer.ttt_gate.weight) * seen["branch"]
    expected = branch.square().mean(-1).sqrt() / seen["residual"].square().mean(-1).sqrt()
    torch.testing.assert_close(told.branch_to_residual, expected)


@torch.no_grad()
def test_an_in_place_branch_is_measured_after_the_feed_forward(make_model: MakeModel) -> None:
    model, seen = make_model(ttt={"learner": "in_place"}), {}
    layer = next(layer for layer in model.model.layers if layer.has_ttt)
    layer.register_forward_hook(lambda _, __, output: seen.update(after=output[0]))
    layer.ttt.register_forward_hook(lambda _, __, output: seen.update(branch=output.output))
    (told,) = model(random_codes(model.config, batch=2, frames=9), diagnostics=True).diagnostics
    branch = torch.tanh(layer.ttt_gate.weight) * seen["branch"]
    before = seen["after"] - branch
    expected = branch.square().mean(-1).sqrt() / before.square().mean(-1).sqrt()
    assert expected[:, 4:].all()
    torch.testing.assert_close(told.branch_to_residual, expected)
    assert torch.equal(told.gate, torch.tanh(layer.ttt_gate.weight))


@pytest.mark.parametrize("learner", ["ttt", "static", "gated_delta", "in_place"])
def test_every_learner_streams_saves_and_trains_in_the_model(
    make_model: MakeModel, learner: str, tmp_path: Path
) -> None:
    model = make_model(ttt={"learner": learner, "layers": "all"})
    model.save_pretrained(tmp_path)
    loaded = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path).eval()
    codes = random_codes(model.config, batch=2, frames=40)
    whole = loaded(codes).text_logits
    assert torch.equal(whole, model(codes).text_logits)
    state, parts = loaded.init_state(2), []
    for piece in codes.split([5, 1, 34], dim=2):
        output = loaded(piece, state=state)
        state = output.state
        parts.append(output.text_logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
    model(codes, labels=codes).loss.backward()
    unused = {"rate_proj", "convolutions.1", "k_proj", "v_proj"} if learner == "static" else set()
    for name, parameter in model.named_parameters():
        if ".ttt." in name and not any(part in name for part in unused):
            assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("preset", ["default", "mini_batch"])
def test_static_has_the_parameters_of_ttt(preset: str) -> None:
    shapes = [
        {n: p.shape for n, p in MoshiTTTForConditionalGeneration(
            MoshiTTTConfig.from_preset("tiny", ttt={"learner": learner, "preset": preset})
        ).named_parameters()} for learner in ("ttt", "static")
    ]  # fmt: skip
    differing = {name.split(".learner.")[-1] for name, _ in shapes[0].items() ^ shapes[1].items()}
    gates_and_start = {"write_bias", "decay_bias", "log_decay_scale", "mean_scale", "start_weight"}
    gates_and_start |= {"answer_gate.bias", "answer_gate.scale"}
    assert differing == (gates_and_start if preset == "default" else set())


def test_memory_of_a_state_is_known_for_the_7b_before_it_is_built() -> None:
    with torch.device("meta"):
        model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("moshi-7b")).bfloat16()
    sizes = model.init_state(1, device="meta").num_bytes_by_layer()
    assert len([name for name in sizes if name.startswith("memory")]) == 8
    assert sizes["window.0"] == 2 * 3000 * 4096 * 2
    fast_weights = 4 * 32 * 512 * 128  # in float32
    assert sizes["memory.0"] == fast_weights + 4 * 4096 * (3 + 4 + 3) + 8  # queries, keys, means, answer, frames
    two = model.init_state(2, device="meta").num_bytes_by_layer()
    assert {name: size * 2 for name, size in sizes.items()} == two


def test_layers_start_from_different_random_numbers(tmp_path: Path) -> None:
    """Also where the base comes from a checkpoint, so that nothing else draws random numbers in between."""
    torch.manual_seed(0)
    MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", ttt=None)).save_pretrained(tmp_path)
    loaded = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path, ttt={"layers": "all"})
    own = [
        p
        for layer in loaded.model.layers
        for n, p in layer.ttt.named_parameters()
        if n in ("k_proj.weight", "v_proj.weight")
    ]
    assert len(own) == 8
    assert not any(torch.equal(a, b) for i, a in enumerate(own) for b in own[:i])


@torch.no_grad()
def test_rows_are_padded_at_the_end(make_model: MakeModel) -> None:
    """-1 is an input like others: after the last frame it changes nothing, before the first one it is read."""
    model = make_model()
    codes = random_codes(model.config, batch=1, frames=9, absent=0)
    absent = torch.full_like(codes[:, :, :4], -1)
    alone = model(codes).text_logits
    torch.testing.assert_close(model(torch.cat([codes, absent], dim=2)).text_logits[:, :9], alone, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(model(torch.cat([absent, codes], dim=2)).text_logits[:, 4:], alone, atol=1e-3)
