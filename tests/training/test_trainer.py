"""A resumed run equals one never stopped, also with lanes and carried memory; groups and logs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.run import prepare
from hf_moshi_ttt.training.trainer import MoshiTTTTrainer
from hf_moshi_ttt.transformer.losses import code_losses

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings, train

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]
LANES: dict[str, Any] = {"order": "lanes", "config": {"ttt": {"persistent_states": True}}}
SHUFFLED: dict[str, Any] = {"order": "shuffled", "config": {}}


def make_trainer(folder: Path, codes: Path, **settings: Any) -> MoshiTTTTrainer:
    base = dict(
        preset="tiny", train_codes=str(codes), output_dir=str(folder), duration_sec=0.88, max_steps=9, use_cpu=True,
        per_device_train_batch_size=2, logging_steps=1, learning_rate=1e-3, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    return prepare({**base, **settings})[0]


def losses(trainer: MoshiTTTTrainer) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "codes", [100, 61, 44, 37, 11])


@pytest.mark.parametrize("mode", [LANES, SHUFFLED], ids=["lanes", "shuffled"])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_resumed_run_equals_one_never_stopped(tmp_path: Path, codes: Path, mode: dict, stop: int) -> None:
    """Segments of 11 frames, 24 of them, 2 lanes: the run crosses an epoch, and mini-batches of 4 frames are split."""
    whole = make_trainer(tmp_path / "whole", codes, max_steps=15, **mode)
    whole.train()
    stopped = make_trainer(tmp_path / "run", codes, max_steps=15, stop_at_step=stop, **mode)
    stopped.train()
    assert stopped.state.global_step == stop
    resumed = make_trainer(tmp_path / "run", codes, max_steps=15, resume_from_checkpoint=True, **mode)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 15
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_what_is_averaged_between_two_logs_goes_on(tmp_path: Path, codes: Path) -> None:
    """A run stopped between two logs tells the same means after it; the speed is that of the session."""

    def logs(trainer: MoshiTTTTrainer) -> list[dict[str, float]]:
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        of_session = ("_per_second", "seconds_left")
        return [{k: v for k, v in entry.items() if not k.endswith(of_session)} for entry in entries]

    options = {"logging_steps": 4, "max_steps": 9, **LANES}
    whole = make_trainer(tmp_path / "whole", codes, **options)
    whole.train()
    make_trainer(tmp_path / "run", codes, stop_at_step=6, **options).train()
    resumed = make_trainer(tmp_path / "run", codes, resume_from_checkpoint=True, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-6"))
    assert [entry["step"] for entry in logs(whole)] == [4, 8] and "audio_loss" in logs(whole)[1]
    assert logs(resumed) == logs(whole)


def test_memory_is_carried_along_lanes_and_not_across_recordings(tmp_path: Path, codes: Path) -> None:
    trainer = make_trainer(tmp_path, codes, **LANES)
    seen = []
    original = trainer.lanes.state_for

    def spy(batch: dict[str, torch.Tensor]) -> Any:
        state = original(batch)
        weights = state.memory[0].fast_weights.detach()
        seen.append((batch["start_frame"].tolist(), weights.flatten(1).abs().amax(1).tolist()))
        assert not weights.requires_grad
        return state

    trainer.lanes.state_for = spy
    trainer.train()
    started = [learned == 0 for starts, rows in seen for start, learned in zip(starts, rows, strict=True) if start == 0]
    carried = [
        learned > 0 for starts, rows in seen[1:] for start, learned in zip(starts, rows, strict=True) if start > 0
    ]
    assert started and all(started)
    assert len(carried) > 8 and all(carried)


def test_carried_memory_changes_the_loss(tmp_path: Path, codes: Path) -> None:
    carried = make_trainer(tmp_path / "a", codes, **LANES)
    carried.train()
    apart = make_trainer(tmp_path / "b", codes, order="lanes")
    apart.train()
    assert losses(carried)[1] == losses(apart)[1] and losses(carried)[9] != losses(apart)[9]


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Conversations of different lengths."""
    return save_codes(tmp_path / "talks", [40, 7, 23, 31, 5, 12], rows=17)


SPLITS = [(4, 1, 1), (1, 4, 1), (2, 2, 1), (2, 1, 2), (1, 2, 2)]


@pytest.mark.parametrize("mode", [LANES, SHUFFLED], ids=["lanes", "shuffled"])
def test_how_a_batch_is_divided_changes_nothing(tmp_path: Path, codes: Path, talks: Path, mode: dict) -> None:
    """Four rows a step as rows, accumulation steps and processes; gradients are compared through plain SGD.

    Lanes follow rows and processes, so only divisions with as many lanes compare.
    """
    found = {}
    for rows, steps, processes in SPLITS if mode is SHUFFLED else [(4, 1, 1), (2, 1, 2)]:
        folder = tmp_path / f"{rows}-{steps}-{processes}"
        settings = tiny_settings(
            folder, codes, train_codes={str(codes): 1, str(talks): 1}, per_device_train_batch_size=rows,
            gradient_accumulation_steps=steps, optim="sgd", learning_rate=0.03, ttt_lr_multiplier=1.0,
            gate_lr_multiplier=1.0, max_steps=4, save_strategy="no", lr_scheduler_type="constant", **mode,
        )  # fmt: skip
        assert train(settings, processes) == [0] * processes
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        found[rows, steps, processes] = history[:-1], load_file(folder / "model.safetensors")
    (logs, weights), *others = found.values()
    assert any("text_loss" in entry for entry in logs) and len({entry["audio_loss"] for entry in logs}) == 4
    compared = ("loss", "audio_loss", "text_loss", "codebook_0_loss", "codebooks_1_7_loss", "grad_norm")
    for other_logs, other_weights in others:
        for one, other in zip(logs, other_logs, strict=True):
            known = [key for key in compared if key in one]
            assert known == [key for key in compared if key in other] and len(known) >= len(compared) - 1
            assert [one[key] for key in known] == pytest.approx([other[key] for key in known], rel=1e-4)
        for name, weight in weights.items():
            assert torch.allclose(weight, other_weights[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("mode", [LANES, SHUFFLED], ids=["lanes", "shuffled"])
def test_an_epoch_ends_with_empty_rows_and_nothing_is_left_out(tmp_path: Path, codes: Path, mode: dict) -> None:
    """24 segments in batches of 5, of which the last has one empty row; an epoch more begins afresh."""
    trainer = make_trainer(
        tmp_path / "run", codes, max_steps=-1, num_train_epochs=2, per_device_train_batch_size=5, **mode
    )
    seen = []
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, *args, **kwargs: (
        seen.extend(zip(inputs["recording"].tolist(), inputs["start_frame"].tolist(), strict=True))
        or compute_loss(model, inputs, *args, **kwargs)
    )
    trainer.train()
    epochs = [[window for window in seen[first : first + 25] if window[0] >= 0] for first in (0, 25)]
    assert len(seen) == 50 and sorted(epochs[0]) == sorted(epochs[1]) and len(set(epochs[0])) == 24
    assert epochs[0] != epochs[1]
    assert all(loss < 10 for loss in losses(trainer).values()) and len(losses(trainer)) == 10


@pytest.mark.parametrize("order", ["shuffled", "lanes"])
def test_the_order_of_the_data_has_a_seed_of_its_own(tmp_path: Path, codes: Path, order: str) -> None:
    def places(**seeds: int) -> list[Any]:
        return list(make_trainer(tmp_path, codes, order=order, **seeds)._get_train_sampler())

    assert places(seed=1, data_seed=5) == places(seed=5) != places(seed=1)


def test_a_mixture_of_codes_trains(tmp_path: Path, codes: Path) -> None:
    talks = save_codes(tmp_path / "talks", [40, 30], rows=17)
    trainer = make_trainer(tmp_path / "run", codes, train_codes={str(codes): 3, str(talks): 1}, max_steps=4)
    trainer.train()
    assert {row["codes"].shape[0] for row in map(trainer.segments.__getitem__, range(len(trainer.segments)))} == {8, 17}


def test_loss_parts_and_every_rate_are_logged(tmp_path: Path, codes: Path) -> None:
    trainer = make_trainer(tmp_path, codes, ttt_lr_multiplier=3.0, gate_lr_multiplier=7.0, lr_scheduler_type="linear")
    trainer.train()
    entry = trainer.state.log_history[0]
    assert "text_loss" not in entry and entry["loss"] == pytest.approx(entry["audio_loss"], abs=1e-4)
    rates = {key: value for key, value in entry.items() if key.startswith("learning_rate/")}
    assert rates == pytest.approx(
        {
            "learning_rate/base": entry["learning_rate"], "learning_rate/base_no_decay": 1e-3,
            "learning_rate/ttt": 3e-3,
            "learning_rate/ttt_no_decay": 3e-3, "learning_rate/gate_no_decay": 7e-3,
        }
    )  # fmt: skip


def test_memories_are_logged_at_logged_steps_alone(tmp_path: Path, codes: Path) -> None:
    trainer, asked = make_trainer(tmp_path, codes, logging_steps=3, max_steps=7), []
    trainer.model.register_forward_pre_hook(lambda *call: asked.append(call[2]["diagnostics"]), with_kwargs=True)
    trainer.train()
    assert asked == [False, False, True, False, False, True, False]
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [3, 6]
    (layer,) = trainer.model.config.ttt_layer_indices
    for entry in entries:
        assert 0 < entry[f"ttt/layer_{layer}/loss_initial"] < 1  # unit values less their mean
        assert 0 < entry[f"ttt/layer_{layer}/loss_after"] < entry[f"ttt/layer_{layer}/loss_before"]
        assert 0 < entry[f"ttt/layer_{layer}/write_strength"] < 1 and entry[f"ttt/layer_{layer}/branch_to_residual"] > 0
    plain = make_trainer(tmp_path / "plain", codes, config={"ttt": None}, max_steps=2)
    plain.train()
    assert not any(key.startswith("ttt/") for entry in plain.state.log_history for key in entry)


def test_memories_are_logged_with_the_epochs_too(tmp_path: Path, codes: Path) -> None:
    """24 segments are 6 steps of 4 rows; the last epoch ends with the run."""
    options = {"logging_strategy": "epoch", "logging_first_step": True, "max_steps": 8}
    trainer = make_trainer(tmp_path, codes, gradient_accumulation_steps=2, **options)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 6, 8]
    assert all("ttt/layer_1/loss_after" in entry for entry in entries)


def test_asking_for_diagnostics_changes_no_weight(tmp_path: Path, codes: Path) -> None:
    often, never = (make_trainer(tmp_path / str(n), codes, logging_steps=n, **LANES) for n in (1, 100))
    often.train()
    never.train()
    assert all(torch.equal(w, never.model.state_dict()[n]) for n, w in often.model.state_dict().items())


def test_the_screen_does_not_show_every_layer(tmp_path: Path, codes: Path, capsys: pytest.CaptureFixture) -> None:
    trainer = make_trainer(tmp_path, codes, max_steps=1, disable_tqdm=False)
    trainer.train()
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "audio_loss" in shown and "ttt/layer" not in shown and "learning_rate/" not in shown


def test_conversations_train_the_text(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", save_codes(tmp_path / "codes", [60, 50], rows=17))
    trainer.train()
    assert trainer.state.log_history[0]["text_loss"] > 1


def test_checkpoint_is_complete_and_names_the_codec(tmp_path: Path, codes: Path) -> None:
    make_trainer(tmp_path, codes, stop_at_step=2, **LANES).train()
    files = {path.name for path in (tmp_path / "checkpoint-2").iterdir()}
    assert {"model.safetensors", "optimizer.pt", "lanes-0.safetensors", "lanes-0.json", "trainer_state.json"} <= files
    assert json.loads((tmp_path / "checkpoint-2" / "config.json").read_text())["codec"] == "tests/random"


@pytest.mark.parametrize("streams", [("silence", "pad"), ("none", "none"), ("duplicate", "zero")], ids=str)
def test_audio_only_choices_are_stored_and_used_by_evaluation(tmp_path: Path, codes: Path, streams: tuple) -> None:
    """What stands in the user's and the text row: the checkpoint says it, and a changed choice changes the losses."""
    chosen = dict(zip(("user_stream", "text_stream"), streams, strict=True))
    trainer = make_trainer(tmp_path / "run", codes, max_steps=1, config=chosen)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    model = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert {key: getattr(model.config, key) for key in chosen} == chosen
    recording = [load_codes(codes)[0][0]["codes"]]
    frames, labels = trainer.data_collator.frame_codes(recording[0].astype("int64"))
    assert (labels[0] == -100).all()
    expected = model(torch.from_numpy(frames)[None], labels=torch.from_numpy(labels)[None]).audio_logits
    own = torch.from_numpy(frames[1:9])[None]
    losses_QT = evaluate_long_context(model, recording, silence_codes=[0] * 8).losses[0]
    whole = code_losses(expected, own)[0].detach().numpy()
    assert losses_QT[:, :-1] == pytest.approx(whole[:, :-1], abs=1e-4)
    other = {"user_stream": "none", "text_stream": "zero"} if streams != ("none", "zero") else {}
    changed = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "model", **other)
    changed_QT = evaluate_long_context(changed, recording, silence_codes=[0] * 8).losses[0]
    assert (changed_QT[:, :-1] != losses_QT[:, :-1]).mean() > 0.9


def test_wrong_settings_are_refused(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(ValueError, match="persistent_states carries memory along lanes, but order='shuffled'"):
        make_trainer(tmp_path, codes, config=LANES["config"])
    with pytest.raises(ValueError, match="tests/random with 64 ids a codebook, but the model has codebook_size=32"):
        make_trainer(tmp_path, save_codes(tmp_path / "other", [30], codebook_size=64))
    make_trainer(tmp_path, codes, stop_at_step=1, order="lanes").train()
    with pytest.raises(ValueError, match="config.ttt.persistent_states is False, asked for True. A run continues only"):
        make_trainer(tmp_path, codes, resume_from_checkpoint=True, **LANES)
    with pytest.raises(ValueError, match="24 segments cannot fill 26 lanes"):
        make_trainer(tmp_path / "wide", codes, per_device_train_batch_size=26, **LANES).train()


def test_carried_windows_make_segments_one_stream(tmp_path: Path, codes: Path) -> None:
    """With frozen weights, the losses of a recording's segments are those of the recording in one piece."""
    trainer = make_trainer(tmp_path, codes, carry_window=True, learning_rate=0.0, max_steps=12, **LANES)
    seen: dict[tuple[int, int], torch.Tensor] = {}
    note = trainer._note

    def spy(outputs: Any, inputs: dict[str, torch.Tensor]) -> None:
        for row, place in enumerate(zip(inputs["recording"].tolist(), inputs["start_frame"].tolist(), strict=True)):
            seen[place] = outputs.losses[row].detach()
        note(outputs, inputs)

    trainer._note = spy
    trainer.train()
    recording = torch.from_numpy(load_codes(codes)[0][0]["codes"].astype("int64"))
    frames, labels = (torch.from_numpy(x)[None] for x in trainer.data_collator.frame_codes(recording.numpy()))
    whole = trainer.model(frames, labels=labels).losses[0]
    pieces = [seen[0, start] for start in range(0, 99, 11)]
    for place, piece in enumerate(pieces):
        expected = whole[:, 11 * place : 11 * (place + 1)]
        assert torch.allclose(piece[:2], expected[:2], atol=1e-5)
        assert torch.allclose(piece[2:, :-1], expected[2:, :-1], atol=1e-5)
    apart = make_trainer(tmp_path, codes, learning_rate=0.0, max_steps=12, **LANES)
    apart.train()
    # Attention is causal without a window and masked over an empty one: two kernels, equal but for rounding.
    assert losses(apart)[1] == pytest.approx(losses(trainer)[1], rel=1e-6)
    assert abs(losses(apart)[2] - losses(trainer)[2]) > 1e-3


@pytest.mark.parametrize("mode", [LANES, {"order": "lanes", "config": {"ttt": None}}], ids=["ttt", "no ttt"])
def test_carried_windows_and_drawn_resets_go_on_exactly(tmp_path: Path, codes: Path, mode: dict) -> None:
    carried = {**mode, "carry_window": True, "state_reset_probability": 0.4, "max_steps": 8}
    whole = make_trainer(tmp_path / "whole", codes, **carried)
    whole.train()
    make_trainer(tmp_path / "run", codes, stop_at_step=5, **carried).train()
    resumed = make_trainer(tmp_path / "run", codes, resume_from_checkpoint=True, **carried)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-5"))
    assert losses(resumed) == losses(whole)
    never = make_trainer(tmp_path / "never", codes, **{**carried, "state_reset_probability": 0.0})
    never.train()
    assert losses(never)[1] == losses(whole)[1] and losses(never) != losses(whole)


@pytest.mark.parametrize("window", [False, True])
def test_bfloat16_carries_float32_memory(tmp_path: Path, codes: Path, window: bool) -> None:
    trainer = make_trainer(tmp_path, codes, bf16=True, carry_window=window, **LANES)
    trainer.train()
    tensors = trainer.lanes.lanes.state.named_tensors()
    floating = {t.dtype for name, t in tensors.items() if name.startswith("memory") and t.is_floating_point()}
    assert floating == {torch.float32} and all(loss < 6 for loss in losses(trainer).values())


def test_inner_rate_is_warmed_up_by_step(tmp_path: Path, codes: Path) -> None:
    trainer, given = make_trainer(tmp_path / "a", codes, inner_lr_warmup_steps=4, max_steps=6), []
    trainer.model.register_forward_pre_hook(lambda *call: given.append(call[2]["inner_lr_scale"]), with_kwargs=True)
    trainer.train()
    assert given == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["inner_lr_scale"] for entry in entries] == given
    trainer.state.global_step = 0
    trainer.evaluate(trainer.train_dataset)
    assert set(given[6:]) == {1.0}
    resumed = make_trainer(tmp_path / "b", codes, inner_lr_warmup_steps=4, max_steps=6, stop_at_step=2)
    resumed.train()
    resumed = make_trainer(tmp_path / "b", codes, inner_lr_warmup_steps=4, max_steps=6, resume_from_checkpoint=True)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert losses(resumed) == losses(trainer)


def test_activation_checkpointing_changes_no_loss(tmp_path: Path, codes: Path) -> None:
    found = []
    for on in (False, True):
        trainer = make_trainer(tmp_path / str(on), codes, activation_checkpointing=on, carry_window=True, **LANES)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == found[1]


def test_compiled_training_gives_the_same_losses(tmp_path: Path, codes: Path) -> None:
    """Traced forward and backward, run by torch's own kernels: inductor's take minutes to build."""
    plain = make_trainer(tmp_path / "plain", codes, max_steps=2, **LANES)
    compiled = make_trainer(tmp_path / "compiled", codes, max_steps=2, torch_compile_backend="aot_eager", **LANES)
    plain.train()
    torch.compiler.reset()
    compiled.train()
    assert torch._dynamo.utils.counters["aot_autograd"]["ok"] > 0
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-5)
    compiled.save_final_model()
    MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "compiled")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"carry_window": True}, "carry_window carries memory along lanes, but order='shuffled'"),
        ({"carry_window": True, "order": "lanes"}, "carry_window=true carries attention beside the memory: set"),
        ({"state_reset_probability": 0.1}, "state_reset_probability=0.1, but no lane carries anything"),
        (
            {"inner_lr_warmup_steps": 3, "config": {"ttt": None}},
            "steps=3, but the model has no learner with inner",
        ),
        (
            {"inner_lr_warmup_steps": 3, "config": {"ttt": {"learner": "gated_delta"}}},
            "has no learner with inner",
        ),
    ],
    ids=str,
)
def test_what_the_model_has_none_of_is_refused(tmp_path: Path, codes: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, codes, **settings)
