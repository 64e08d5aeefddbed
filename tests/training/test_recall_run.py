"""It must work: a memory trained from scratch recalls a planted motif, and where nothing repeats no arm is better."""

import math
import os
import signal
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_moshi_ttt.memory.recall_tasks import MotifTask, NaturalTask, RecallBatch, RecallTask
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.non_finite import NonFiniteError
from hf_moshi_ttt.training.recall_run import draw_test, make_trainer, run_arm, score
from hf_moshi_ttt.training.recall_setup import RecallSetup, arm_config
from hf_moshi_ttt.training.recall_size import MOST_TEST_ROWS, RecallSize

DEPTH = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "ffn_dim": 32}
CHANCE_NATS = math.log(16)


def make_setup(steps: int, repeats: bool = True, stages: int = 1) -> RecallSetup:
    task = MotifTask(num_ids=16, motif_frames=12, hearings=3, repeats=repeats)
    size = RecallSize(
        steps=steps, hidden_size=32, window_frames=4, learning_rate=4e-3, warmup_steps=min(10, steps), test_rows=16
    )
    return RecallSetup("motif", size, [task] * stages, {"motif": task}, DEPTH)


def hearings(run: dict[str, Any]) -> list[float]:
    return [hearing["value"] for hearing in run["tests"]["motif"]["hearings"]]


def test_a_memory_recalls_what_was_planted_and_its_control_does_not() -> None:
    setup = make_setup(120)
    first, second, third = hearings(run_arm(setup, "ttt", 0))
    assert first > 0.95 * CHANCE_NATS
    assert second < 2.4 and third < 2.0
    assert all(loss > 0.95 * CHANCE_NATS for loss in hearings(run_arm(setup, "static", 0)))


def test_steps_on_the_models_own_loss_recall_too_and_without_them_nothing_does() -> None:
    setup = make_setup(60)
    _, second, third = hearings(run_arm(setup, "e2e+chunk_frames=12", 0))
    assert second < 2.6 and third < 2.6
    without = run_arm(setup, "e2e+chunk_frames=12+inner_lr=0", 0)
    assert all(loss > 0.95 * CHANCE_NATS for loss in hearings(without))


@pytest.mark.parametrize("arm", ["ttt", "static", "full", "e2e+chunk_frames=12"])
def test_where_nothing_repeats_no_arm_beats_chance(arm: str) -> None:
    found = hearings(run_arm(make_setup(30, repeats=False), arm, 0))
    assert all(CHANCE_NATS - 0.03 < loss < CHANCE_NATS + 0.25 for loss in found)


def test_a_run_says_what_it_did() -> None:
    steps: list[int] = []
    run = run_arm(make_setup(4), "window", 3, lambda: steps.append(1))
    assert (run["arm"], run["seed"], len(steps)) == ("window", 3, 4)
    assert [step for step, _ in run["train_losses"]] == [1, 2, 3, 4]
    assert run["sec"] > 0 and run["parameters"] > 1000
    assert run["train_frames"] == 4 * 8 * 36 and run["cpu_sec"] > 0
    again = run_arm(make_setup(4), "window", 3)
    assert again["tests"] == run["tests"] and again["train_losses"] == run["train_losses"]
    other_seed, other_arm = run_arm(make_setup(4), "window", 4), run_arm(make_setup(4), "ttt", 3)
    assert other_seed["tests"] != run["tests"] and other_seed["train_sha256"] != run["train_sha256"]
    assert other_arm["tests"] != run["tests"] and other_arm["train_sha256"] == run["train_sha256"]


def test_a_run_that_is_stopped_says_nothing() -> None:
    with pytest.raises(SystemExit, match="143"):
        run_arm(make_setup(4), "window", 0, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_tests_are_the_same_for_all_and_no_row_comes_twice() -> None:
    task = MotifTask()
    few, many = draw_test(task, 20), draw_test(task, 40)
    assert few.codes_BKT.shape == (20, 3, 96) and few.hearing_BT.shape == (20, 96)
    assert torch.equal(few.codes_BKT[:16], many.codes_BKT[:16])
    assert len(many.codes_BKT.flatten(1).unique(dim=0)) == 40


def test_no_test_is_drawn_as_what_is_trained_on() -> None:
    task = MotifTask()
    trained = task.draw(32, torch.Generator().manual_seed(100)).codes_BKT
    tested = draw_test(task, MOST_TEST_ROWS).codes_BKT
    assert len(torch.cat([trained, tested]).flatten(1).unique(dim=0)) == 32 + MOST_TEST_ROWS


def test_memory_is_carried_along_recordings_that_are_read_in_lanes(tmp_path: Path) -> None:
    recordings = [torch.randint(16, (1, 90), generator=torch.Generator().manual_seed(i)) for i in range(8)]
    task, size = NaturalTask(recordings, 16, frames=36), make_setup(4).size
    setup = RecallSetup("natural", replace(size, lanes=True, steps=3), [task], {"natural": task}, DEPTH)
    model = MoshiTTTForConditionalGeneration(arm_config(setup, "ttt+persistent_states=true"))
    trainer = make_trainer(model, setup, 0, str(tmp_path))
    rows = torch.cat([batch["codes"][:, 1] for batch in trainer.get_train_dataloader()], dim=1)
    assert trainer.lanes is not None
    heard = {tuple(row[row >= 0].tolist()) for row in rows}
    assert heard == {tuple(recording[0].tolist()) for recording in recordings}
    carried, fresh = (run_arm(setup, arm, 0) for arm in ("ttt+persistent_states=true", "ttt"))
    assert carried["train_sha256"] == fresh["train_sha256"] and carried["train_losses"] != fresh["train_losses"]


def test_every_sequence_is_trained_on_once_in_equal_stages(tmp_path: Path) -> None:
    setup = make_setup(5, stages=2)
    model = MoshiTTTForConditionalGeneration(arm_config(setup, "static"))
    trainer = make_trainer(model, setup, 0, str(tmp_path))
    assert [len(stage) for stage in trainer.stages()] == [2 * 8, 3 * 8]
    batches = list(trainer.get_train_dataloader())
    assert len(batches) == 5 and all(batch["codes"].shape == (8, 3, 36) for batch in batches)
    seen = torch.cat([batch["codes"] for batch in batches]).flatten(1)
    assert len(seen.unique(dim=0)) == 40
    rates = {group["name"]: group["lr"] for group in trainer.create_optimizer().param_groups}
    assert rates["ttt"] == rates["base"] == 4e-3 and rates["gate_no_decay"] == pytest.approx(1.2e-2)


class LossesGiven:
    """A model whose losses are the codes themselves."""

    config = types.SimpleNamespace(num_codebooks=2)
    device = torch.device("cpu")

    def __call__(self, codes: Tensor, labels: Tensor) -> Any:
        assert codes is labels
        return types.SimpleNamespace(losses=codes.float())


def test_losses_are_means_over_codebooks_by_hearing() -> None:
    row = torch.arange(6)
    codes = torch.stack([torch.full_like(row, 9), row, row + 2, row * 0 - 1, row * 0 - 1])
    batch = RecallBatch(torch.stack([codes, 2 * codes]), torch.tensor([[1, 1, -1, 0, 2, 0], [1, 1, -1, 0, 2, 0]]))
    found = score(LossesGiven(), batch, hearings=2)  # type: ignore[arg-type]
    # Codebooks are t and t + 2: their mean is t + 1 in the first row, and twice as much in the second.
    assert [hearing["value"] for hearing in found["hearings"]] == pytest.approx([2.25, 7.5])
    assert found["hearing_rows"] == [[1.5, 3.0], [5.0, 10.0]]
    assert found["positions"] == [1.5, 3.0, 4.5, 6.0, 7.5, 9.0]
    assert found["other_rows"] == [5.0, 10.0] and found["other"]["value"] == pytest.approx(7.5)
    assert found["other"]["low"] <= 7.5 <= found["other"]["high"]
    batch.hearing_BT[batch.hearing_BT == 0] = -1
    found = score(LossesGiven(), batch, hearings=3)  # type: ignore[arg-type]
    assert found["other"] is None and found["other_rows"] is None and found["hearings"][2] is None
    assert found["hearing_recordings"] == [None] * 3 and found["other_recordings"] is None


def test_intervals_of_losses_are_over_recordings() -> None:
    """Sequences of one recording are alike, those of the other one too; where a sequence is not heard it has none."""
    codes = torch.ones(8, 5, 4) * torch.tensor([1.0, 5.0] * 4)[:, None, None]
    hearing = torch.tensor([[1, -1, -1, 0]] * 7 + [[-1, -1, -1, 0]])
    recording = torch.tensor([[0, 9, 9, 1], [1, 9, 9, 0]] * 4)
    found = score(LossesGiven(), RecallBatch(codes, hearing, recording), 1)  # type: ignore[arg-type]
    assert found["hearing_recordings"] == [[0, 1, 0, 1, 0, 1, 0, -1]] and found["other_recordings"] == [1, 0] * 4
    over_pieces = score(LossesGiven(), RecallBatch(codes, hearing), 1)  # type: ignore[arg-type]
    for wide, narrow in ((found["other"], over_pieces["other"]), (found["hearings"][0], over_pieces["hearings"][0])):
        assert wide["value"] == narrow["value"]
        assert wide["high"] - wide["low"] > 2 * (narrow["high"] - narrow["low"])


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_loss_that_is_not_finite_is_no_result(place: int) -> None:
    """Frames 0 and 1 are heard, 3 is another one; what is not scored may be anything."""
    codes, hearing = torch.ones(2, 5, 4), torch.tensor([[1, 1, -1, 0]] * 2)
    codes[1, 1, 2] = torch.nan
    assert score(LossesGiven(), RecallBatch(codes, hearing), 1)["other_rows"] == [1, 1]  # type: ignore[arg-type]
    codes[0, 2, place] = torch.inf
    with pytest.raises(NonFiniteError, match="A loss of a test is NaN or infinite after training"):
        score(LossesGiven(), RecallBatch(codes, hearing), 1)  # type: ignore[arg-type]


def test_tasks_fit_the_protocol() -> None:
    task: RecallTask = MotifTask()
    assert task.draw(1, torch.Generator()).codes_BKT.shape == (1, 3, task.frames)
