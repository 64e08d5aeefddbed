"""Requests to stop a run after the step under way: a given step, or SIGTERM from a scheduler.

Either way a checkpoint is saved; after SIGTERM the process exits with 143, which launchers read as "terminated", so a
run that is queued again continues and is not taken for a finished one.

Schedulers signal all processes of a run. SIGTERM is therefore blocked in the main thread while training, and so, by
inheritance, in every process that is started meanwhile: data workers, compilers. They live until the step is saved.
"""

import functools
import multiprocessing
import signal
import threading
from multiprocessing import util
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EXIT_CODE_TERMINATED = 128 + signal.SIGTERM


class StopRequests(TrainerCallback):
    """Saves and stops where asked to.

    Args:
        stop_at_step: the step to stop at, or None.
    """

    def __init__(self, stop_at_step: int | None) -> None:
        self.stop_at_step = stop_at_step
        self.has_signal = False  # of this process
        self.is_agreed = False  # of all of them: set by the trainer where there are several
        self.was_terminated = False
        self._earlier: tuple[Any, set[Any]] | None = None  # handler and mask
        self._ended = threading.Event()

    def reached(self, step: int) -> bool:
        """Whether a run at this step has nothing more to do."""
        return self.stop_at_step is not None and step >= self.stop_at_step

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Listens to SIGTERM."""
        if threading.current_thread() is threading.main_thread() and self._earlier is None:
            handler = signal.signal(signal.SIGTERM, self._on_signal)
            self._ended.clear()
            threading.Thread(target=self._ended.wait, daemon=True).start()  # the one that takes the signal
            self._earlier = handler, signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            _kill_workers_at_exit()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leaves SIGTERM to whoever had it before."""
        self.release()

    def release(self) -> None:
        """The same, also where training ended with an error."""
        if self._earlier is not None:
            handler, mask = self._earlier
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            signal.signal(signal.SIGTERM, handler)
            self._ended.set()
            self._earlier = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.has_signal = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Stops with a checkpoint."""
        terminated = self.is_agreed if args.world_size > 1 else self.has_signal
        if terminated or self.reached(state.global_step):
            self.was_terminated = terminated
            control.should_save = control.should_training_stop = True
        return control


@functools.cache
def _kill_workers_at_exit() -> None:
    """Ends daemonic workers, such as those that load data, before multiprocessing sends them SIGTERM and waits."""
    util.Finalize(None, _kill_workers, exitpriority=0)


def _kill_workers() -> None:
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
