"""Where a run is asked to stop: at a step, and by SIGTERM."""

import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

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


def test_processes_that_are_started_meanwhile_do_not_see_the_signal() -> None:
    """As a compiler's; a run that has ended is as it was before."""
    requests, state, control = StopRequests(None), TrainerState(), TrainerControl()
    handler = signal.getsignal(signal.SIGTERM)
    args: Any = SimpleNamespace(world_size=1)
    for _ in range(2):
        assert _ended_by_sigterm()
        requests.on_train_begin(args, state, control)
        assert not _ended_by_sigterm()
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(100):
            if requests.has_signal:
                break
            time.sleep(0.01)
        assert requests.has_signal
        requests.on_train_end(args, state, control)
        assert signal.getsignal(signal.SIGTERM) == handler and _ended_by_sigterm()
        requests.has_signal = False


def _ended_by_sigterm() -> bool:
    """Whether a process that is started now would be ended by SIGTERM."""
    child = subprocess.Popen(["sleep", "0.2"])
    child.terminate()
    return child.wait() == -signal.SIGTERM


def test_sigterm_is_released_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _ = prepare(tiny_settings(tmp_path / "run", save_codes(tmp_path / "codes", [60, 50]), save_strategy="no"))
    monkeypatch.setattr(trainer, "training_step", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
