"""The long-context numbers inside Trainer are those outside, and training does not notice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, TrainerCallback

from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.data.segments import SegmentDataset
from hf_moshi_ttt.evaluation.long_context import evaluate_long_context
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.evaluation.training_metrics import LongContextCallback, LongContextMetrics, plain_numbers

from ..conftest import save_codes
from ..training.test_trainer import LANES, make_trainer

SETTINGS = LongContextSettings(positions_frames=[40], bin_frames=10, check_frames=0)
LENGTHS = [70, 50, 62]
RECORDINGS = [np.random.default_rng(i).integers(0, 32, (8, length)) for i, length in enumerate(LENGTHS)]


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return save_codes(tmp_path / "codes", [100, 61, 44])


class _DrawsAfterwards(TrainerCallback):
    """Notes the next random number and the model's mode after each step."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, bool]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.noted.append((torch.rand(()).item(), kwargs["model"].training))


@pytest.mark.parametrize("mode", [{"order": "shuffled", "config": {}}, LANES], ids=["shuffled", "lanes"])
def test_training_does_not_notice_the_callback(tmp_path: Path, codes: Path, mode: dict[str, Any]) -> None:
    runs = []
    for name in ("without", "with"):
        trainer = make_trainer(tmp_path / name, codes, max_steps=6, **mode)
        noted = _DrawsAfterwards()
        trainer.add_callback(noted)
        if name == "with":
            trainer.add_callback(LongContextCallback(trainer, RECORDINGS, every_steps=2, settings=SETTINGS))
        trainer.train()
        history = trainer.state.log_history
        losses = [entry["loss"] for entry in history if "loss" in entry]
        runs.append((losses, noted.noted, {k: v.clone() for k, v in trainer.model.state_dict().items()}, history))
    assert runs[0][0] == runs[1][0] and len(runs[0][0]) == 6
    assert runs[0][1] == runs[1][1] and all(training for _, training in runs[1][1])
    assert all(torch.equal(weight, runs[1][2][name]) for name, weight in runs[0][2].items())
    logged = [entry for entry in runs[1][3] if "eval_librilight_slope" in entry]
    assert [entry["step"] for entry in logged] == [2, 4, 6]
    output = evaluate_long_context(trainer.model.eval(), RECORDINGS, SETTINGS, progress=False)
    assert logged[-1]["eval_librilight_loss_40"] == pytest.approx(output.results["librilight_loss_40"])
    assert logged[-1]["eval_librilight_slope_low"] == pytest.approx(output.results["librilight_slope_interval"][0])
    assert logged[0]["eval_librilight_loss_40"] != logged[-1]["eval_librilight_loss_40"]


def test_a_run_logs_the_numbers_of_whole_recordings(tmp_path: Path, codes: Path) -> None:
    held_out = save_codes(tmp_path / "held_out", [1600, 1510])
    options = {"eval_codes": str(held_out), "eval_long_context_steps": 2, "max_steps": 5}
    trainer = make_trainer(tmp_path / "run", codes, **options)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_librilight_samples" in entry]
    assert [entry["step"] for entry in logged] == [2, 4] and "eval_loss" not in logged[0]
    again = make_trainer(tmp_path / "again", codes, **{**options, "stop_at_step": 4})
    again.train()
    output = evaluate_long_context(again.model, [row["codes"] for row in load_codes(held_out)[0]], progress=False)
    expected = {f"eval_{key}": value for key, value in plain_numbers(output.results).items()}
    assert "eval_librilight_slope" in expected and expected["eval_librilight_samples"] == 2
    assert {key: logged[1][key] for key in expected} == pytest.approx(expected)


def test_compute_metrics_of_trainer_equal_the_streamed_numbers(tmp_path: Path, codes: Path) -> None:
    trainer = make_trainer(tmp_path / "run", codes, max_steps=1, per_device_eval_batch_size=2)
    held_out, _ = load_codes(save_codes(tmp_path / "held_out", LENGTHS))
    metrics = LongContextMetrics(trainer.model.config.sliding_window, SETTINGS)
    trainer.compute_metrics, trainer.preprocess_logits_for_metrics = metrics, metrics.preprocess
    found = trainer.evaluate(SegmentDataset(held_out, max(LENGTHS)))
    output = evaluate_long_context(trainer.model, [row["codes"] for row in held_out], SETTINGS, progress=False)
    for key, value in plain_numbers(output.results).items():
        if key != "librilight_frames":
            assert found[f"eval_{key}"] == pytest.approx(value, abs=1e-4), key


def test_padding_is_no_loss() -> None:
    padded = np.array([[4.0, 2.0, 7.0, np.nan], [1.0, 1.0, np.nan, -100.0], [-100.0] * 4])
    metrics = LongContextMetrics(0, LongContextSettings(bin_frames=1, positions_frames=[1, 2]))
    found = metrics(EvalPrediction(padded, padded))
    assert found["librilight_loss_1"] == 1.5 and found["librilight_loss_2"] == 7.0
    assert found["librilight_samples"] == 3 and found["librilight_loss_1_recordings"] == 2


def test_a_frame_that_lacks_a_code_has_no_loss() -> None:
    labels = torch.ones(1, 17, 4, dtype=torch.int64)
    labels[0, 5, 1] = -100
    losses = LongContextMetrics(0).preprocess((torch.zeros(1, 8, 4, 32),), labels)
    assert losses.isnan().tolist() == [[False, True, False, False]]
    assert losses[0, 0] == pytest.approx(np.log(32))


def test_a_callback_needs_a_step(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(ValueError, match="every_steps=0, but it must be at least 1"):
        LongContextCallback(make_trainer(tmp_path, codes), RECORDINGS, every_steps=0)
