"""Frame by frame: steps equal the whole forward, forced and free codes mix, and generation continues itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from moshi.utils.sampling import sample_token

from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.streaming.generation_moshi_ttt import GREEDY, Sampling, _earliest

from ..conftest import random_codes

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
CLOSE = dict(rtol=2e-5, atol=2e-5)
OWN = torch.arange(9)


@torch.no_grad()
@pytest.mark.parametrize("ttt", [None, {"layers": "all"}, {"ttt_mlp_layers": 5}], ids=str)
def test_forced_steps_equal_forward(make_model: MakeModel, ttt: dict | None) -> None:
    model = make_model(ttt=ttt)
    codes = random_codes(model.config, 2, 50)  # three windows
    whole, state = model(codes), model.init_state(2)
    for frame in range(50):
        step = model.step_with_logits(codes[:, :, frame], state)
        state = step.state
        assert step.frames[0].tolist() == [frame, frame, *[frame - 1] * 7]
        torch.testing.assert_close(step.text_logits, whole.text_logits[:, frame], **CLOSE)
        torch.testing.assert_close(step.audio_logits[:, 0], whole.audio_logits[:, 0, frame], **CLOSE)
        assert torch.equal(step.codes[:, :2], codes[:, :2, frame])
        if frame:
            torch.testing.assert_close(step.audio_logits[:, 1:], whole.audio_logits[:, 1:, frame - 1], **CLOSE)
            assert torch.equal(step.complete_codes, codes[:, :, frame - 1])
        else:
            assert step.audio_logits[:, 1:].isnan().all() and not step.audio_logits[:, 0].isnan().any()


@torch.no_grad()
def test_steps_continue_a_chunk_and_chunks_continue_steps(make_model: MakeModel) -> None:
    model = make_model()
    codes = random_codes(model.config, 2, 40)
    whole = model(codes).text_logits
    state = model(codes[:, :, :19], state=model.init_state(2)).state
    for frame in range(19, 25):
        step = model.step_with_logits(codes[:, :, frame], state)
        state = step.state
        torch.testing.assert_close(step.text_logits, whole[:, frame], **CLOSE)
    torch.testing.assert_close(model(codes[:, :, 25:], state=state).text_logits, whole[:, 25:], **CLOSE)


@torch.no_grad()
def test_greedy_generation_is_what_the_logits_say(make_model: MakeModel) -> None:
    """Every generated code is the most likely one of a teacher-forced pass over the result."""
    model = make_model()
    prompt = random_codes(model.config, 2, 20, absent=0)
    user = random_codes(model.config, 2, 31, seed=5)[:, 9:]
    result = model.generate(prompt, max_new_frames=30, user_codes=user, sampling=GREEDY).codes
    assert result.shape == (2, 17, 30)
    assert torch.equal(result[:, 9:], user[:, :, :30])
    whole = model(torch.cat([prompt, result], dim=2))
    assert torch.equal(whole.text_logits[:, 20:].argmax(-1), result[:, 0])
    assert torch.equal(whole.audio_logits[:, 0, 20:].argmax(-1), result[:, 1])
    assert torch.equal(whole.audio_logits[:, 1:, 20:-1].argmax(-1), result[:, 2:9, :-1])


@torch.no_grad()
def test_generation_in_two_calls_equals_one(make_model: MakeModel) -> None:
    model = make_model()
    prompt = random_codes(model.config, 1, 20, absent=0)
    whole = model.generate(prompt, max_new_frames=30, sampling=GREEDY).codes
    first = model.generate(prompt, max_new_frames=13, sampling=GREEDY)
    second = model.generate(state=first.state, max_new_frames=17, sampling=GREEDY)
    assert torch.equal(torch.cat([first.codes, second.codes], dim=2), whole)


@pytest.mark.parametrize("where", ["prompt", "stream"])
def test_streams_go_on_out_of_inference_mode(make_model: MakeModel, where: str) -> None:
    model, found = make_model(), []
    codes = random_codes(model.config, 2, 20)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            state = model(codes[:, :, :18], state=model.init_state(2)).state
            if where == "stream":
                state = model.step_with_logits(codes[:, :, 18], state).state
        for frame in (18, 19):
            step = model.step_with_logits(codes[:, :, frame], state)
            state = step.state
        found.append(step.text_logits)
    assert torch.equal(*found)


@torch.no_grad()
def test_sampling_is_seeded_and_bounded(make_model: MakeModel) -> None:
    model = make_model()

    def drawn(seed: int, **options: float) -> torch.Tensor:
        sampling = Sampling(generator=torch.Generator().manual_seed(seed), **options)
        return model.generate(max_new_frames=20, sampling=sampling).codes[:, :9]

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(1, top_k=1, text_top_k=1), model.generate(max_new_frames=20, sampling=GREEDY).codes[:, :9])
    assert drawn(1).min() >= 0 and drawn(1)[:, 1:].max() < 32 and drawn(1)[:, 0].max() < 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("is_text", "top_k"), [(False, 4), (True, 3), (False, 500)])
def test_draws_are_those_of_moshi(dtype: torch.dtype, is_text: bool, top_k: int) -> None:
    """Exactly k codes are drawn from, whatever the ties among them, and the same ones with the same seed."""
    logits = torch.randn(2000, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    logits[:, 7:12] = logits.amax(-1, keepdim=True)
    sampling = Sampling(top_k=top_k, text_top_k=top_k)
    torch.manual_seed(5)
    ours = sampling.draw(logits, is_text)
    torch.manual_seed(5)
    theirs = sample_token(logits.float(), True, temp=0.7 if is_text else 0.8, top_k=top_k)
    assert torch.equal(ours, theirs)
    assert sampling.draw(logits[:1].expand(2000, -1), is_text).unique().numel() == min(top_k, 40)


def test_rows_with_generators_of_their_own_draw_as_if_alone() -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5, 4)]
    together = [Sampling(generator=generators).draw(logits, is_text=False).tolist() for _ in range(20)]
    alone = Sampling(generator=torch.Generator().manual_seed(5))
    assert [drawn[1] for drawn in together] == [alone.draw(logits[1:2], is_text=False).item() for _ in range(20)]
    with pytest.raises(ValueError, match="shorter"):
        Sampling(generator=generators[:2]).draw(logits, is_text=True)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("top_k", [4, 500])
def test_draws_without_waiting_are_those_of_multinomial(rows: bool, top_k: int) -> None:
    logits = 3 * torch.randn(2, 9, generator=torch.Generator().manual_seed(0))

    def sampling() -> Sampling:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return Sampling(top_k=top_k, generator=generators if rows else generators[0])

    one, other, drawn = sampling(), sampling(), set()
    for _ in range(50):
        (log_times,) = other._logs_drawn(torch.empty(1, 2, min(top_k, 9)))
        ids = one.draw(logits, is_text=False)
        assert torch.equal(ids, _earliest(logits, other.temperature, top_k, log_times))
        drawn.add(tuple(ids.tolist()))
    assert len(drawn) > 5


def test_times_of_a_frame_are_drawn_at_once_off_cpus() -> None:
    meta, cpu = torch.device("meta"), torch.device("cpu")
    assert [x.shape for x in Sampling(top_k=7, text_top_k=9).log_times(3, 2, meta, 40)] == [(2, 9)] * 3
    assert Sampling().log_times(3, 2, cpu, 40) == GREEDY.log_times(3, 2, meta, 40) == [None] * 3
    assert [x.shape for x in Sampling(top_k=10**12).log_times(3, 2, meta, 40)] == [(2, 40)] * 3  # all codes
    logits = torch.empty(2, 40, device="meta", dtype=torch.bfloat16)
    assert Sampling().draw(logits, is_text=True).shape == (2,)


@pytest.mark.parametrize("key", ["temperature", "text_temperature"])
@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{key}={value}, but it must be 0 \(the most likely code\) or more"):
        Sampling(**{key: value})


@pytest.mark.parametrize("key", ["top_k", "text_top_k"])
def test_drawing_from_no_code_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}=0, but at least 1 code must be left to draw from"):
        Sampling(**{key: 0})


@pytest.mark.parametrize("key", ["text_pad_bias", "text_epad_bias"])
def test_biases_must_be_finite(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}=nan, but it must be a finite number; 0 changes nothing"):
        Sampling(**{key: float("nan")})


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0, 0.7])
def test_a_bias_moves_its_own_token_and_leaves_the_logits(make_model: MakeModel, temperature: float) -> None:
    model = make_model()
    pad, epad = model.config.pad_token_id, model.config.end_pad_token_id

    def text(**biases: float) -> set[int]:
        torch.manual_seed(0)
        sampling = Sampling(text_temperature=temperature, **biases)
        return set(model.generate(max_new_frames=12, sampling=sampling).codes[0, 0].tolist())

    assert text(text_pad_bias=1e4) == {pad} and text(text_epad_bias=1e4) == {epad}
    assert not text(text_pad_bias=-1e4, text_epad_bias=-1e4) & {pad, epad}
    assert text(text_pad_bias=0.0) == text()
    frame = torch.full((1, 17), -2).index_fill(1, torch.arange(9, 17), 0)
    plain = model.step_with_logits(frame, model.init_state(1))
    biased = model.step_with_logits(frame, model.init_state(1), Sampling(temperature=0, text_pad_bias=1e4))
    assert torch.equal(plain.text_logits, biased.text_logits) and biased.codes[0, 0] == pad


@torch.no_grad()
def test_settings_are_saved_with_the_model_and_used_by_it(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model()
    assert Sampling.from_generation_config(model.generation_config) == Sampling()
    model.generation_config = Sampling(0.5, 7, text_pad_bias=1e4, text_epad_bias=-0.25).to_generation_config()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    found = Sampling.from_generation_config(loaded.generation_config)
    assert found == Sampling(0.5, 7, 0.7, 25, 1e4, -0.25)
    assert set(loaded.generate(max_new_frames=5).codes[0, 0].tolist()) == {model.config.pad_token_id}
    loaded.generation_config.do_sample = False
    assert Sampling.from_generation_config(loaded.generation_config, text_pad_bias=0.0) == Sampling(
        0, 7, 0, 25, 0.0, -0.25
    )


@pytest.mark.parametrize(("key", "value"), [("text_pad_bias", "2"), ("top_k", 2.5), ("temperature", True)])
def test_settings_that_are_no_numbers_are_refused(key: str, value: object) -> None:
    config = Sampling().to_generation_config()
    setattr(config, key, value)
    with pytest.raises(ValueError, match=f"{key}={value!r} in the generation config, but it must be a"):
        Sampling.from_generation_config(config)


class Int8Linear(torch.nn.Linear):
    """A linear layer whose weight is stored in int8 and multiplied in the dtype of its input, as bitsandbytes does."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        scale = linear.weight.detach().abs().amax() / 127
        self.register_buffer("scale", scale)
        self.bias = linear.bias
        self.weight = torch.nn.Parameter((linear.weight / scale).round().to(torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., I]` -> `[..., O]`."""
        return torch.nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


@torch.no_grad()
@pytest.mark.parametrize(
    "ttt", [None, {"ttt_mlp_layers": 2}, {"learner": "gated_delta"}, {"learner": "in_place"}], ids=str
)
def test_int8_weights_decide_no_dtype(make_model: MakeModel, ttt: dict | None) -> None:
    """Streams of a model with int8 weights equal its whole forward pass, and that of the same weights in float32."""
    model = make_model(ttt=ttt)
    for layer in model.model.layers:
        for parent in list(layer.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Linear):
                    quantized = Int8Linear(child)
                    setattr(parent, name, quantized)
        assert layer.self_attn.qkv_proj.weight.dtype == torch.int8
    codes = random_codes(model.config, 2, 40)
    whole, state = model(codes), model.init_state(2)
    assert state.window[0].keys.dtype == torch.float32
    for frame in range(40):
        step = model.step_with_logits(codes[:, :, frame], state)
        state = step.state
        torch.testing.assert_close(step.text_logits, whole.text_logits[:, frame], **CLOSE)
    unquantized = make_model(ttt=ttt)
    wide = {name: p.float() * dict(model.named_buffers()).get(name.removesuffix("weight") + "scale", 1)
            for name, p in model.named_parameters()}  # fmt: skip
    unquantized.load_state_dict(wide)
    torch.testing.assert_close(whole.text_logits, unquantized(codes).text_logits, **CLOSE)


@torch.no_grad()
def test_forced_and_free_codes_mix_by_row_and_codebook(make_model: MakeModel) -> None:
    """Row 0 is forced to the text of a greedy run and free in audio; row 1 is wholly free: both give that run."""
    model = make_model()
    greedy = model.generate(max_new_frames=25, sampling=GREEDY).codes.expand(2, -1, -1)
    state = model.init_state(2)
    for frame in range(25):
        given = greedy[:, :, frame].clone()
        given[0, 1:9], given[1, :9] = -2, -2
        step = model.step_with_logits(given, state)
        state = step.state
        if frame:
            assert torch.equal(step.complete_codes, greedy[:, :, frame - 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[:, :16], r"codes_frame must be int64 \[2, 17\]; got torch.int64 \[2, 16\]"),
        (lambda frame: frame.float(), r"got torch.float32 \[2, 17\]"),
        (lambda frame: frame.index_fill(1, torch.tensor([12]), -2), "in Moshi's own rows, -2"),
        (lambda frame: frame.index_fill(1, torch.tensor([2]), -3), "codes_frame must hold ids"),
        (lambda frame: frame.index_fill(1, torch.tensor([2]), 33), "codes_frame must hold ids"),
    ],
)
def test_bad_frames_are_refused(make_model: MakeModel, change: Callable, message: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model.step_with_logits(change(torch.zeros(2, 17, dtype=torch.int64)), model.init_state(2))


def test_a_duplicate_user_is_what_a_mono_recording_has_in_training(make_model: MakeModel) -> None:
    """Every code is the most likely one of a forward pass over the result with Moshi's rows as the user's."""
    model = make_model()
    prompt = random_codes(model.config, 2, 20, absent=0)
    prompt[:, 9:] = prompt[:, 1:9]
    first = model.generate(prompt, max_new_frames=10, user_codes="duplicate", sampling=GREEDY)
    rest = model.generate(state=first.state, max_new_frames=20, user_codes="duplicate", sampling=GREEDY)
    result = torch.cat([first.codes, rest.codes], dim=2)
    assert torch.equal(result[:, 9:], result[:, 1:9])
    output = model(torch.cat([prompt, result], dim=2))
    assert torch.equal(output.text_logits[:, 20:].argmax(-1), result[:, 0])
    assert torch.equal(output.audio_logits[:, :, 20:-1].argmax(-1), result[:, 1:9, :-1])
    with pytest.raises(ValueError, match="user_codes='twice', but it must be codes, \"duplicate\" or None"):
        model.generate(prompt, user_codes="twice")  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt_frames", [0, 1, 5])
def test_one_state_can_be_continued_many_times(make_model: MakeModel, prompt_frames: int) -> None:
    model = make_model()
    state = model.generate(random_codes(model.config, 1, 40), max_new_frames=0).state  # longer than the window
    prompt = random_codes(model.config, 1, prompt_frames, seed=7) if prompt_frames else None
    before = {name: tensor.clone() for name, tensor in state.named_tensors().items()}

    def continued(seed: int) -> torch.Tensor:
        sampling = Sampling(generator=torch.Generator().manual_seed(seed))
        return model.generate(prompt, state=state, max_new_frames=25, sampling=sampling).codes

    first, other, again = (continued(seed) for seed in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.named_tensors().items())


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5}])
def test_what_is_no_sampling_is_refused(make_model: MakeModel, sampling: Any) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=r"sampling=\{.*\}, but it must be a Sampling\(temperature=..., top_k=...\)"):
        model.generate(max_new_frames=2, sampling=sampling)
    with pytest.raises(ValueError, match="but it must be a Sampling"):
        model.step_with_logits(random_codes(model.config, 1, 1)[:, :, 0], model.init_state(1), sampling)


def test_generators_of_other_rows_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="sampling has 2 generators for 1 rows: give one, or one a row"):
        make_model().generate(max_new_frames=2, sampling=Sampling(generator=[torch.Generator(), torch.Generator()]))


def test_given_text_is_said(make_model: MakeModel) -> None:
    model = make_model()
    prompt = random_codes(model.config, 2, 20, absent=0)
    text = torch.randint(model.config.text_vocab_size, (2, 12), generator=torch.Generator().manual_seed(0))
    result = model.generate(prompt, max_new_frames=9, sampling=GREEDY, text_codes=text).codes
    assert torch.equal(result[:, 0], text[:, :9])
    predicted = model(torch.cat([prompt, result], dim=2)).audio_logits.argmax(-1)[:, :, 20:]
    assert torch.equal(predicted[..., :-1], result[:, 1:9, :-1])  # the last delayed codes see one more frame
    with pytest.raises(ValueError, match=r"text_codes must be \[B, T\] = \[2, 10\] or longer; got \[2, 9\]"):
        model.generate(prompt, max_new_frames=9, text_codes=text[:, :9])


def test_short_user_codes_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"user_codes must be \[B, Q, T\] = \[1, 8, 11\] or longer; got \[1, 8, 10\]"):
        make_model().generate(max_new_frames=10, user_codes=torch.zeros(1, 8, 10, dtype=torch.int64))


def test_no_new_frames_leave_the_state_after_the_prompt(make_model: MakeModel) -> None:
    model = make_model()
    codes = random_codes(model.config, batch=2, frames=9)
    result = model.generate(codes, max_new_frames=0)
    assert tuple(result.codes.shape) == (2, 17, 0) and result.codes.dtype == torch.int64
    at_once = model.generate(codes, max_new_frames=3, sampling=GREEDY).codes
    assert torch.equal(model.generate(state=result.state, max_new_frames=3, sampling=GREEDY).codes, at_once)


@pytest.mark.parametrize("frames", [-1, 2.0, True])
def test_a_number_of_frames_that_is_none_is_refused(make_model: MakeModel, frames: Any) -> None:
    with pytest.raises(ValueError, match=f"max_new_frames={frames!r}, but it must be a whole number of frames, 0 or"):
        make_model().generate(max_new_frames=frames)
