"""Held-out losses while a model trains: means over all targets, and they do not change the training."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_moshi_ttt.training.run import prepare, run
from hf_moshi_ttt.training.trainer import MoshiTTTTrainer

from ..conftest import save_codes
from ..fixtures.training_runs import outcome, tiny_settings, train
from .test_trainer import LANES, SHUFFLED, losses, make_trainer


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "codes", [100, 61, 44, 37, 11])


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "held_out", [50, 40, 25], rows=17)


def evaluated(trainer: MoshiTTTTrainer) -> dict[int, dict[str, float]]:
    timed = ("runtime", "_per_second")
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    return {
        entry["step"]: {k: v for k, v in entry.items() if k.startswith("eval_") and not k.endswith(timed)}
        for entry in entries
    }


def test_held_out_losses_are_means_over_all_targets(tmp_path: Path, codes: Path, held_out: Path) -> None:
    options: dict[str, Any] = {"eval_codes": str(held_out), "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1}
    trainer = make_trainer(tmp_path / "run", codes, per_device_eval_batch_size=3, duration_sec=0.96, **options)
    trainer.train()
    sums: dict[str, list[float]] = {"text": [0, 0], "audio": [0, 0], "codebook_0": [0, 0]}
    segments = trainer.eval_dataset
    assert [span for span in segments.spans if span[0] == 0] == [(0, start) for start in (0, 12, 24, 36, 48)]
    for index in range(len(segments)):
        batch = trainer.data_collator([segments[index]])
        found = trainer.model.eval()(codes=batch["codes"], labels=batch["labels"]).losses.detach().double()
        weights = batch["weights"].double()
        counted = (weights > 0).double()
        for name, rows, shares in (("text", 0, weights), ("audio", slice(1, 9), weights), ("codebook_0", 1, counted)):
            sums[name][0] += float((found[:, rows] * shares[:, rows]).sum())
            sums[name][1] += float(shares[:, rows].sum())
    expected = {f"eval_{name}_loss": total / weight for name, (total, weight) in sums.items()}
    expected["eval_loss"] = expected["eval_text_loss"] + expected["eval_audio_loss"]
    told = evaluated(trainer)[1]
    assert {key: told[key] for key in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", [LANES, SHUFFLED], ids=["lanes", "shuffled"])
def test_evaluating_changes_nothing_of_a_run(tmp_path: Path, codes: Path, held_out: Path, mode: dict) -> None:
    """Neither losses nor weights nor random numbers, also where a run is continued; two processes give the same."""
    told: dict[str, Any] = {"eval_codes": str(held_out), "eval_strategy": "steps", "eval_steps": 2, **mode}
    trained, numbers = [], []
    for name, settings in (("plain", mode), ("whole", told)):
        trained.append(make_trainer(tmp_path / name, codes, **settings))
        trained[-1].train()
        numbers.append(torch.rand(()))
    plain, whole = trained
    assert losses(plain) == losses(whole) and numbers[0] == numbers[1]
    assert list(evaluated(whole)) == [2, 4, 6, 8, 9] and len({e["eval_loss"] for e in evaluated(whole).values()}) == 5
    make_trainer(tmp_path / "run", codes, stop_at_step=4, **told).train()
    resumed = make_trainer(tmp_path / "run", codes, resume_from_checkpoint=True, **told)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert losses(resumed) == losses(whole) and evaluated(resumed) == evaluated(whole)


def test_processes_share_held_out_data(tmp_path: Path, codes: Path, held_out: Path) -> None:
    told: dict[str, Any] = {"eval_codes": str(held_out), "eval_strategy": "epoch", "num_train_epochs": 1}
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        rows = 2 // processes
        settings = tiny_settings(folder, codes, **{**told, "max_steps": -1, "per_device_train_batch_size": rows})
        assert train(settings, processes=processes) == [0] * processes
        entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found += [
            {k: v for k, v in e.items() if k.startswith("eval_") and "loss" in k} for e in entries if "eval_loss" in e
        ]
    assert len(found) == 2 and len(found[0]) == 5 and found[1] == pytest.approx(found[0], rel=1e-4)


def test_the_best_checkpoint_is_kept_and_loaded(tmp_path: Path, codes: Path, held_out: Path) -> None:
    """The rate is so high that a model of two steps is better than later ones."""
    best: dict[str, Any] = dict(
        eval_codes=str(held_out), eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, save_total_limit=2, learning_rate=0.3, max_steps=8, max_grad_norm=0.0,
    )  # fmt: skip
    trainer = make_trainer(tmp_path / "run", codes, **best)
    trainer.train()
    by_step = {step: entry["eval_loss"] for step, entry in evaluated(trainer).items()}
    first = min(by_step, key=by_step.get)
    assert first < 8 and trainer.state.best_model_checkpoint == str(tmp_path / "run" / f"checkpoint-{first}")
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {f"checkpoint-{first}", "checkpoint-8"}
    saved = load_file(tmp_path / "run" / f"checkpoint-{first}" / "model.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in trainer.model.state_dict().items() if name in saved)
    with pytest.raises(
        ValueError, match="save_total_limit=1 with metric_for_best_model='loss': in the end transformers"
    ):
        make_trainer(tmp_path / "one", codes, **{**best, "save_total_limit": 1})


def test_a_stop_saves_also_where_only_the_best_is_saved(tmp_path: Path, codes: Path, held_out: Path) -> None:
    """Stopped after a step that was evaluated and found worse, the run goes on from there."""
    settings = tiny_settings(
        tmp_path / "run", codes, eval_codes=str(held_out), eval_strategy="steps", eval_steps=2, save_strategy="best",
        load_best_model_at_end=True, learning_rate=0.3, max_grad_norm=0.0, save_total_limit=None,
    )  # fmt: skip
    run({**settings, "stop_at_step": 6})
    trainer = prepare(settings)[0]
    assert [path.name for path in trainer.folders.present()] == ["checkpoint-2", "checkpoint-6"]
    assert run(settings) == 0
    assert run({**settings, "output_dir": str(tmp_path / "whole")}) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    assert [path.name for path in (tmp_path / "whole").glob("checkpoint-*")] == ["checkpoint-2"]


def test_held_out_data_needs_a_time_and_the_same_codec(tmp_path: Path, codes: Path, held_out: Path) -> None:
    with pytest.raises(
        ValueError,
        match="eval_strategy='no', eval_long_context_steps=None, eval_turn_taking_steps=None and sample_steps=None: ",
    ):
        make_trainer(tmp_path, codes, eval_codes=str(held_out))
    with pytest.raises(ValueError, match="eval_codes=None, eval_strategy='steps'"):
        make_trainer(tmp_path, codes, eval_strategy="steps")
    with pytest.raises(ValueError, match="eval_long_context_steps=0, but it must be at least 1"):
        make_trainer(tmp_path, codes, eval_long_context_steps=0)
    other = save_codes(tmp_path / "other", [30], codebook_size=64)
    with pytest.raises(ValueError, match="other do not go together: codebook_size is 32 in the first and 64"):
        make_trainer(tmp_path, codes, eval_codes=str(other), eval_strategy="steps")
