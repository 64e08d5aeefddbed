"""`evaluate_long_context`: exact in every mode, batch and process, resumable, and without a trace in the model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.evaluation.long_context import (
    describe_model,
    evaluate_long_context,
    evaluation_mode,
    frame_recordings,
)
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from ..conftest import copying

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
SILENCE = [1] * 8
RECORDINGS = [
    np.random.default_rng(i).integers(0, 32, (8, length)).astype(np.int16) for i, length in enumerate((70, 33, 101))
]
CONVERSATION = np.random.default_rng(9).integers(0, 32, (17, 60)).astype(np.int16)
SMALL = LongContextSettings(positions_frames=[20, 60], bin_frames=10, block_frames=16, check_frames=0)


def losses(
    model: Any, settings: LongContextSettings = SMALL, recordings: Any = None, **options: Any
) -> list[np.ndarray]:
    recordings = RECORDINGS if recordings is None else recordings
    return evaluate_long_context(model, recordings, settings, silence_codes=SILENCE, progress=False, **options).losses


def assert_close(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def losses_of_forward(model: Any, codes: np.ndarray) -> np.ndarray:
    frames, labels = MoshiTTTCollator(model.config, SILENCE).frame_codes(codes.astype(np.int64))
    logits = model(torch.from_numpy(frames)[None]).audio_logits[0]
    return -logits.log_softmax(-1).gather(-1, torch.from_numpy(labels[1:9])[..., None])[..., 0].numpy()


@pytest.mark.parametrize("text", ["zero", "pad", "none", "predicted"])
@pytest.mark.parametrize("user", ["duplicate", "silence", "none"])
def test_stream_equals_block_equals_forward(make_model: MakeModel, text: str, user: str) -> None:
    model = make_model()
    settings = replace(SMALL, text_stream=text, user_stream=user)
    in_blocks = losses(model, settings)
    assert_close(losses(model, replace(settings, mode="stream")), in_blocks)
    if text != "predicted":
        trained_so = make_model(text_stream=text, user_stream=user)
        assert_close([losses_of_forward(trained_so, codes) for codes in RECORDINGS], in_blocks)
        assert_close(losses(trained_so), in_blocks)
    for one in in_blocks:
        assert np.isnan(one[1:, -1]).all() and np.isfinite(one[:, :-1]).all() and np.isfinite(one[0]).all()


def test_modes_of_the_text_differ(make_model: MakeModel) -> None:
    model = make_model()
    first = [losses(model, replace(SMALL, text_stream=text))[0] for text in ("zero", "pad", "none", "predicted")]
    assert all(np.nanmax(np.abs(a - b)) > 0.01 for i, a in enumerate(first) for b in first[:i])


@pytest.mark.parametrize("text", [None, "predicted"])
@pytest.mark.parametrize(("block_frames", "batch_size"), [(500, 3), (7, 2), (1, 1)])
def test_blocks_and_batches_change_nothing(
    make_model: MakeModel, text: str | None, block_frames: int, batch_size: int
) -> None:
    settings = replace(SMALL, text_stream=text)
    model = make_model()
    found = losses(model, replace(settings, block_frames=block_frames, batch_size=batch_size))
    assert_close(found, losses(model, replace(settings, mode="stream", batch_size=1)))


def test_a_conversation_keeps_its_text_or_gets_the_models(make_model: MakeModel) -> None:
    model = make_model()
    (given,) = losses(model, recordings=[CONVERSATION])
    np.testing.assert_allclose(given, losses_of_forward(model, CONVERSATION), rtol=1e-4, atol=1e-4)
    (predicted,) = losses(model, replace(SMALL, text_stream="predicted"), [CONVERSATION])
    (by_frame,) = losses(model, replace(SMALL, text_stream="predicted", mode="stream"), [CONVERSATION])
    np.testing.assert_allclose(predicted, by_frame, rtol=1e-4, atol=1e-4)
    assert np.nanmax(np.abs(given - predicted)) > 0.01
    with pytest.raises(ValueError, match=r"text_stream='pad', but a recording brings its own text \(\[17, T\]\)"):
        losses(model, replace(SMALL, text_stream="pad"), [CONVERSATION])


def test_the_callers_codes_are_not_written_to(make_model: MakeModel) -> None:
    conversation = CONVERSATION.astype(np.int64)
    frame_recordings(make_model(), [conversation], replace(SMALL, text_stream="predicted"), None)
    assert np.array_equal(conversation, CONVERSATION)


def test_evaluation_leaves_no_trace(make_model: MakeModel) -> None:
    model = make_model().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config, random_state = model.config.to_dict(), torch.get_rng_state()
    for memory in ("on", "off", "no_reset"):
        losses(model, replace(SMALL, memory=memory, text_stream="predicted", user_stream="none"))
        assert [module.training for module in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random_state)
        assert model.config.to_dict() == config
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())


def test_random_numbers_go_on_behind_the_evaluation_as_if_none_had_been_drawn(make_model: MakeModel) -> None:
    model = make_model()
    torch.manual_seed(1)
    with evaluation_mode(model):
        torch.rand(3)
        assert not torch.is_grad_enabled()
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_a_failure_leaves_no_trace_either(make_model: MakeModel) -> None:
    model = make_model().train()
    with pytest.raises(KeyError), evaluation_mode(model, "off"):
        assert not model.training
        raise KeyError
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_model_that_copies_scores_near_zero_only_when_aligned(make_model: MakeModel) -> None:
    """The copy is right exactly where codebook i equals codebook i - 1."""
    model = copying(make_model(ttt=None))
    row = RECORDINGS[2][:1]
    aligned = np.repeat(row, 8, axis=0)
    shifted = aligned.copy()
    shifted[4] = np.roll(row[0], 1)
    for settings in (SMALL, replace(SMALL, mode="stream"), replace(SMALL, text_stream="predicted")):
        scores, one_late = losses(model, settings, [aligned, shifted])
        assert np.nanmax(scores[2:, :-1]) < 0.1
        assert np.nanmean(one_late[4]) > 5 and np.nanmax(one_late[2, :-1]) < 0.1
        assert np.nanmean(losses(model, settings, [RECORDINGS[2]])[0][2:]) > 5


def test_memory_off_is_the_model_without_ttt(make_model: MakeModel) -> None:
    model, plain = make_model(), make_model(ttt=None)
    plain.load_state_dict({name: w for name, w in model.state_dict().items() if name in plain.state_dict()})
    assert_close(losses(model, replace(SMALL, memory="off")), losses(plain))
    assert max(np.nanmax(np.abs(a - b)) for a, b in zip(losses(model), losses(plain), strict=True)) > 0.01


def test_memory_static_is_the_model_without_inner_steps(make_model: MakeModel) -> None:
    mini_batch = {"preset": "mini_batch"}
    model, static = make_model(ttt=mini_batch), make_model(ttt={**mini_batch, "learner": "static"})
    static.load_state_dict(model.state_dict())
    without = losses(model, replace(SMALL, memory="static"))
    assert_close(without, losses(static))
    assert_close(losses(model, replace(SMALL, memory="static", mode="stream")), without)
    assert max(np.nanmax(np.abs(a - b)) for a, b in zip(losses(model), without, strict=True)) > 0.01
    for other, learner in ((make_model(ttt=None), "None"), (static, "'static'")):
        with pytest.raises(ValueError, match=f"takes the inner steps away, but the model has ttt.learner={learner}"):
            losses(other, replace(SMALL, memory="static"))


def test_online_memory_without_steps_is_silent(make_model: MakeModel) -> None:
    model = make_model()
    without = losses(model, replace(SMALL, memory="static"))
    assert_close(without, losses(model, replace(SMALL, memory="off")))
    assert max(np.nanmax(np.abs(a - b)) for a, b in zip(losses(model), without, strict=True)) > 0.01


def test_no_reset_carries_the_memory_and_nothing_else(make_model: MakeModel) -> None:
    model = make_model()
    chained = losses(model, replace(SMALL, memory="no_reset"))
    fresh = losses(model)
    assert_close(chained[:1], fresh[:1])
    assert all(np.nanmax(np.abs(a - b)) > 0.001 for a, b in zip(chained[1:], fresh[1:], strict=True))
    state = model.init_state(1)
    for index, codes in enumerate(frame_recordings(model, RECORDINGS, SMALL, SILENCE)):
        with torch.no_grad():
            output = model(torch.from_numpy(codes)[None], state=replace(model.init_state(1), memory=state.memory))
        state = output.state
        expected = -output.audio_logits[0].log_softmax(-1).gather(-1, torch.from_numpy(codes[1:9])[..., None])[..., 0]
        assert_close([chained[index]], [expected.numpy()])
    plain = make_model(ttt=None)
    assert_close(losses(plain, replace(SMALL, memory="no_reset")), losses(plain))


def test_results_have_the_established_keys_and_what_they_rest_on(make_model: MakeModel) -> None:
    model = make_model()
    output = evaluate_long_context(model, RECORDINGS, replace(SMALL, positions_frames=[20, 60, 8000]), progress=False)
    results = output.results
    assert results["librilight_samples"] == 3 and results["librilight_frames"] == 204
    assert "librilight_loss_8k" not in results  # nobody reaches it
    around = [losses_QT.mean(0)[15:25].mean() for losses_QT in output.losses]
    assert results["librilight_loss_20"] == pytest.approx(np.mean(around), rel=1e-5)
    assert results["librilight_loss_20_recordings"] == 3 and results["librilight_loss_60_recordings"] == 2
    low, high = results["librilight_loss_20_interval"]
    assert low < results["librilight_loss_20"] < high
    assert set(results) >= {"librilight_slope", "librilight_loss_beyond_window", "librilight_loss_60_interval"}
    assert "librilight_slope_interval" not in results  # the longest recording makes up nearly all of it
    assert results["with_training_weights"]["weights"] == [100.0] + [1.0] * 7
    first = results["by_codebook"][0]["librilight_loss_20"]
    rest = np.mean([results["by_codebook"][q]["librilight_loss_20"] for q in range(1, 8)])
    assert results["librilight_loss_20"] == pytest.approx((first + 7 * rest) / 8, rel=1e-5)
    assert results["with_training_weights"]["librilight_loss_20"] == pytest.approx((100 * first + 7 * rest) / 107)
    assert [len(curve) for curve in results["codebook_curves"]] == [10] * 8
    assert results["curve"][0]["recordings"] == 3 and len(results["curve"]) == 10
    assert results["run"]["frames_read"] == 204 and results["run"]["kept_recordings"] == 0
    assert describe_model(model, SMALL)["text_stream"] == "zero"
    np.testing.assert_allclose(output.headlines[0], output.losses[0].mean(0))


def test_no_recordings_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="There are no recordings to evaluate"):
        evaluate_long_context(make_model(), [])
    with pytest.raises(
        ValueError, match=r"recordings is one array \[8, 50\], but must be a list of codes .* \[codes\]"
    ):
        evaluate_long_context(make_model(), np.zeros((8, 50), np.int64))
    with pytest.raises(ValueError, match="Codes are float64, but ids are whole numbers"):
        evaluate_long_context(make_model(), [np.zeros((8, 50))])
