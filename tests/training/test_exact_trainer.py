"""A run that is killed anywhere and continues equals one never stopped; nothing half-written is picked."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from hf_moshi_ttt.training.checkpoint_folders import CheckpointError, CheckpointFolders
from hf_moshi_ttt.training.non_finite import NonFiniteError
from hf_moshi_ttt.training.run import prepare, run

from ..conftest import save_codes
from ..fixtures.training_runs import log_of, outcome, require_same_when_killed, tiny_settings, train

LANES: dict[str, Any] = {"order": "lanes", "config": {"ttt": {"persistent_states": True}}}
ACCUMULATED: dict[str, Any] = {"gradient_accumulation_steps": 3, "logging_steps": 3}


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    """24 segments of 11 frames, so that runs of two rows cross epochs and split mini-batches of four frames."""
    return save_codes(tmp_path / "codes", [100, 61, 44, 37, 11])


@pytest.mark.parametrize(
    ("processes", "mode"),
    [(1, LANES), (1, ACCUMULATED), (2, {**LANES, **ACCUMULATED})],
    ids=["lanes", "accumulated", "two processes"],
)
def test_a_run_that_is_killed_anywhere_equals_one_never_stopped(
    tmp_path: Path, codes: Path, processes: int, mode: dict
) -> None:
    require_same_when_killed(tmp_path, codes, kills=4 // processes, processes=processes, **mode)


def test_sigterm_saves_and_exits_with_143(tmp_path: Path, codes: Path) -> None:
    """Only the second process gets the signal; both stop after the same step, and continue."""
    settings = tiny_settings(tmp_path / "run", codes, save_strategy="no", **LANES)
    assert train(settings, processes=2, terminate=(1, 3)) == [143, 143], log_of(tmp_path / "run")
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert 3 <= int(checkpoint.name.removeprefix("checkpoint-")) <= 5
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert train(settings, processes=2) == [0, 0]
    whole = tiny_settings(tmp_path / "whole", codes, save_strategy="no", **LANES)
    assert train(whole, processes=2) == [0, 0]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_sigterm_to_a_run_and_its_data_workers_saves(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes, save_strategy="no", dataloader_num_workers=2)
    assert train(settings, terminate=(0, 3)) == [143], log_of(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_run_that_fails_does_not_wait_for_its_data_workers(tmp_path: Path, codes: Path) -> None:
    """SIGTERM, by which multiprocessing ends them, is blocked in them."""
    settings = tiny_settings(tmp_path / "run", codes, dataloader_num_workers=2, learning_rate=1e30)
    assert train(settings) == [1], log_of(tmp_path / "run")
    assert "NonFiniteError" in log_of(tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint's optimizer.pt lies on /dev/full, where every write fails as on a full disk."""
    clear, saves = CheckpointFolders.clear, []

    def clear_with_full_disk(folders: CheckpointFolders) -> None:
        clear(folders)
        saves.append(folders.saving / f"checkpoint-{2 * len(saves) + 2}")
        if len(saves) == 2:
            saves[1].mkdir()
            (saves[1] / "optimizer.pt").symlink_to("/dev/full")

    monkeypatch.setattr(CheckpointFolders, "clear", clear_with_full_disk)
    settings = tiny_settings(tmp_path / "run", codes)
    told = r"checkpoint-4 could not be written: .*checkpoint-2 is untouched\. Make room"
    with pytest.raises(CheckpointError, match=told):
        run(settings)
    monkeypatch.undo()
    left = {"checkpoint-2", "metrics.jsonl", "run.json"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == left
    assert run(settings) == 0
    assert run(tiny_settings(tmp_path / "whole", codes)) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def spoiled(trainer: Any, at_step: int) -> Any:
    """The trainer with NaN in the loss of one of the batches of a step."""
    share, calls = trainer._share_of_step, []

    def spoil(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return share(*arguments) * (torch.nan if len(calls) == 3 * (at_step - 1) + 2 else 1.0)

    trainer._share_of_step = spoil
    return trainer


@pytest.mark.parametrize("mode", [LANES, {}], ids=["lanes", "shuffled"])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_nan_stops_before_the_step_and_names_batch_and_parameter(
    tmp_path: Path, codes: Path, mode: dict, max_grad_norm: float
) -> None:
    settings = tiny_settings(
        tmp_path / "run", codes, save_steps=100, max_grad_norm=max_grad_norm, **{**ACCUMULATED, **mode}
    )
    trainer = spoiled(prepare(settings)[0], at_step=6)
    seen = []
    read = trainer.segments._read
    trainer.segments._read = lambda row, start: seen.append((row, start)) or read(row, start)
    told = r"Step 6 gave NaN or infinity in the gradient of \w.* and \d+ others\."
    with pytest.raises(NonFiniteError, match=told) as error:
        trainer.train()
    rows = [f"recording {row} at frame {start}" for row, start in seen[2 * 16 : 2 * 17]]
    assert f"Batch: {', '.join(rows)}. The step before it is saved in checkpoint-5." in str(error.value)
    assert run(settings) == 0
    assert run({**settings, "output_dir": str(tmp_path / "whole")}) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_nan_in_the_first_step_and_in_weights_leave_nothing_to_save(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes, gradient_accumulation_steps=3)
    with pytest.raises(NonFiniteError, match="Step 1 gave NaN .* It was the first step, so there is nothing to save"):
        spoiled(prepare(settings)[0], at_step=1).train()
    trainer, _ = prepare(settings)
    trainer.add_callback(PoisonedWeight())
    with pytest.raises(
        NonFiniteError, match="weights are not finite themselves: lm_head.weight. No checkpoint was saved"
    ):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path: Path, codes: Path) -> None:
    """Neither for NaN in the step after it, nor for that in a run that continues it."""
    settings = tiny_settings(tmp_path / "run", codes, gradient_accumulation_steps=3)
    inodes = []
    for calls_before in (2, 0):
        trainer, start = prepare(settings)
        with pytest.raises(NonFiniteError, match="The step before it is saved in checkpoint-2"):
            spoiled(trainer, at_step=calls_before + 1).train(start.checkpoint and str(start.checkpoint))
        inodes.append((tmp_path / "run" / "checkpoint-2").stat().st_ino)
    assert start.checkpoint is not None and inodes[0] == inodes[1]


class PoisonedWeight(TrainerCallback):
    """Infinity in a weight after the third step, as no step of ours makes it."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 3:
            model.lm_head.weight.data[0] = torch.inf


def test_a_finished_run_has_nothing_to_do(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes, max_steps=5)
    assert run(settings) == 0
    before = outcome(tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    assert run(settings) == 0
    assert outcome(tmp_path / "run") == before
    assert run({**settings, "stop_at_step": 3}) == 0
    assert outcome(tmp_path / "run") == before


@pytest.mark.parametrize("max_norm", [0.01, 0.0])
def test_gradients_are_clipped_by_their_common_norm(tmp_path: Path, codes: Path, max_norm: float) -> None:
    """A step of SGD is as long as the clipped norm; what is logged is the norm before."""
    plain = dict(
        optim="sgd", learning_rate=1.0, lr_scheduler_type="constant", ttt_lr_multiplier=1, gate_lr_multiplier=1
    )
    trainer, _ = prepare(tiny_settings(tmp_path / "run", codes, max_steps=1, max_grad_norm=max_norm, **plain))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    moves = [p.detach() - start for p, start in zip(trainer.model.parameters(), before, strict=True)]
    moved = torch.cat([move.flatten() for move in moves]).norm().item()
    logged = trainer.state.log_history[0]["grad_norm"]
    assert logged > 1 and moved == pytest.approx(max_norm or logged, rel=1e-3)


def test_a_run_goes_on_with_how_often_to_log_and_save_is_asked_for_now(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes)
    run({**settings, "stop_at_step": 2})
    run({**settings, "logging_steps": 3, "save_steps": 4})
    assert list(outcome(tmp_path / "run")[0]) == [1, 2, 3, 6]
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}


def test_a_weight_of_another_model_is_refused(tmp_path: Path, codes: Path) -> None:
    settings = tiny_settings(tmp_path / "run", codes, max_steps=2)
    run(settings)
    path = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
    weights = load_file(path)
    weights["model.norm.wight"] = weights.pop("model.norm.weight")
    save_file(weights, path)
    with pytest.raises(
        ValueError, match=r"1 weights of the model are missing \(model.norm.weight\), 1 have no place .*wight"
    ):
        prepare(settings)[0].train(resume_from_checkpoint=str(path.parent))
