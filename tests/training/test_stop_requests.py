"""Where a run is asked to stop: at a step, and by SIGTERM."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from hf_moshi_ttt.training.run import prepare
from hf_moshi_ttt.training.stop_requests import EXIT_CODE_TERMINATED, StopRequests

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings


def after_step(requests: StopRequests, step: int, processes: int = 1) -> tuple[bool, bool]:
    args: Any = SimpleNamespace(world_size=processes)
    control = requests.on_step_end(args, SimpleNamespace(global_step=step), TrainerControl())
    return control.should_save, control.should_training_stop


def test_a_step_is_reached() -> None:
    requests = StopRequests(stop_at_step=5)
    assert [after_step(requests, step) for step in (4, 5, 6)] == [(False, False), (True, True), (True, True)]
    assert not requests.was_terminated and after_step(StopRequests(None), 10**6) == (False, False)


def test_several_processes_stop_when_they_have_agreed() -> None:
    requests = StopRequests(None)
    requests.has_signal = True
    assert after_step(requests, 3, processes=2) == (False, False)
    requests.is_agreed = True
    assert after_step(requests, 3, processes=2) == (True, True) and requests.was_terminated


def test_sigterm_is_listened_to_while_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = prepare(tiny_settings(tmp_path / "run", save_codes(tmp_path / "codes", [60, 50]), save_strategy="no"))
    before = signal.getsignal(signal.SIGTERM)
    training_step = trainer.training_step

    def terminated(*args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(*args, **kwargs)

    monkeypatch.setattr(trainer, "training_step", terminated)
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.exit_code == EXIT_CODE_TERMINATED == 143
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]
    assert signal.getsignal(signal.SIGTERM) == before
