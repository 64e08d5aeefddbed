"""`evaluate_long_context`: exact in every mode, batch and process, resumable, and without a trace in the model."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config, random_state = model.config.to_dict(), torch.get_rng_state()
    for memory in ("on", "off", "no_reset"):
        losses(model, replace(SMALL, memory=memory, text_stream="predicted", user_stream="none"))
        assert model.training and torch.equal(torch.get_rng_state(), random_state)
        assert model.config.to_dict() == config
        assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
        assert not any(module._forward_hooks for module in model.modules())


def test_a_failure_leaves_no_trace_either(make_model: MakeModel) -> None:
    model = make_model().train()
    with pytest.raises(KeyError), evaluation_mode(model, "off"):
        assert not model.training
        raise KeyError
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_a_model_that_copies_scores_near_zero_only_when_aligned(make_model: MakeModel) -> None:
    """Depth heads that answer with their own input codebook: right exactly where codebook i equals codebook i - 1."""
    model = make_model(ttt=None)
    decoder = model.depth_decoder
    with torch.no_grad():
        for parameter in [*decoder.input_projections.parameters(), *decoder.layers.parameters()]:
            parameter.zero_()
        embedding = torch.randn(33, 16)
        for embed in decoder.embed_audio:
            embed.weight.copy_(embedding)
        for head in decoder.lm_heads:
            head.weight.copy_(50 * embedding[:32] / embedding[:32].square().sum(-1, keepdim=True).sqrt())
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
    assert set(results) >= {"librilight_slope", "librilight_slope_interval", "librilight_loss_beyond_window"}
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


@pytest.mark.parametrize("text", [None, "predicted"])
def test_blocks_are_checked_against_single_frames(make_model: MakeModel, text: str | None) -> None:
    settings = replace(SMALL, check_frames=20, text_stream=text, batch_size=2)
    check = evaluate_long_context(make_model(), RECORDINGS, settings, progress=False).results["run"]["block_check"]
    assert check["frames"] == 20 and 65 <= check["first_frame"] <= 81
    assert 0 < check["max_difference_nats"] < 1e-4


def test_the_check_sees_a_wrong_block(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that forget the window at their start, as a ring that is too short would."""
    model = make_model()
    whole = type(model.model.layers[0].self_attn).forward

    def forgetful(self: Any, x: Any, cache: Any = None, frames: Any = None) -> Any:
        if cache is not None and x.shape[1] > 1:
            cache = replace(cache, keys=torch.zeros_like(cache.keys))
        return whole(self, x, cache, frames)

    monkeypatch.setattr(type(model.model.layers[0].self_attn), "forward", forgetful)
    settings = replace(SMALL, check_frames=20)
    check = evaluate_long_context(model, RECORDINGS, settings, progress=False).results["run"]["block_check"]
    assert check["max_difference_nats"] > 1e-3


def test_a_stopped_evaluation_goes_on(make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, settings = make_model(), replace(SMALL, batch_size=1)
    whole = losses(model, settings)
    forward, calls = model.forward, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 10:  # in the second recording: the first, of 101 frames, has 7 blocks
            raise KeyboardInterrupt
        return forward(*arguments, **options)

    monkeypatch.setattr(model, "forward", stopping)
    with pytest.raises(KeyboardInterrupt):
        losses(model, settings, keep_in=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]
    output = evaluate_long_context(model, RECORDINGS, settings, silence_codes=SILENCE, keep_in=tmp_path, progress=False)
    assert output.results["run"]["kept_recordings"] == 1
    for one, other in zip(output.losses, whole, strict=True):
        np.testing.assert_array_equal(one, other)
    calls.clear()
    assert_close(losses(model, settings, keep_in=tmp_path), whole)
    assert calls == []


def test_kept_losses_belong_to_their_model_and_settings(make_model: MakeModel, tmp_path: Path) -> None:
    def kept(model: Any, settings: LongContextSettings = SMALL) -> int:
        output = evaluate_long_context(
            model, RECORDINGS, settings, silence_codes=SILENCE, keep_in=tmp_path, progress=False
        )
        return output.results["run"]["kept_recordings"]

    model = make_model()
    assert kept(model) == 0 and kept(model) == 3
    assert kept(model, replace(SMALL, batch_size=1, bin_frames=5)) == 3  # losses do not depend on these
    for change in ({"memory": "off"}, {"mode": "stream"}, {"text_stream": "pad"}, {"user_stream": "none"}):
        assert kept(model, replace(SMALL, **change)) == 0, change
    with torch.no_grad():
        model.model.layers[1].ttt_gate.weight.add_(1e-3)
    assert kept(model) == 0
    assert kept(make_model(ttt={"base_lr": 0.5})) == 0
    assert kept(model, replace(SMALL, memory="no_reset")) == 0
    assert kept(model, replace(SMALL, memory="no_reset")) == 3


def test_no_recordings_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="There are no recordings to evaluate"):
        evaluate_long_context(make_model(), [])


def test_out_of_memory_tells_the_remedy(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()

    def full(*arguments: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory\n.*halve batch_size, then block_frames"):
        losses(model)


TWO_PROCESSES = """
import sys
import numpy as np
import torch
from accelerate import PartialState
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

torch.set_num_threads(1)
process = PartialState(cpu=True)
torch.manual_seed(0)
model = MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny")).eval()
recordings = [np.random.default_rng(i).integers(0, 32, (8, n)) for i, n in enumerate((70, 33, 101))]
for memory in ("on", "no_reset"):
    settings = LongContextSettings(bin_frames=10, block_frames=16, check_frames=0, batch_size=1, memory=memory)
    output = evaluate_long_context(model, recordings, settings, progress=False)
    np.savez(f"{sys.argv[1]}/{memory}_{process.num_processes}_{process.process_index}.npz", *output.losses)
    print(memory, output.results["run"]["frames_read"])
"""


def test_two_processes_share_the_recordings(tmp_path: Path) -> None:
    script = tmp_path / "evaluate.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    shared, alone = (
        subprocess.run([*command, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300)
        for command in (launch, [sys.executable])
    )
    assert shared.returncode == 0 == alone.returncode, (shared.stderr + alone.stderr)[-3000:]
    assert sorted(shared.stdout.split("\n")[:-1]) == ["no_reset 204", "no_reset 204", "on 134", "on 70"]
    for memory in ("on", "no_reset"):
        expected, *found = (np.load(tmp_path / f"{memory}_{part}.npz") for part in ("1_0", "2_0", "2_1"))
        for one in found:
            assert_close(list(one.values()), list(expected.values()))
