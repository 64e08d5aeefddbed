"""Jobs in worker processes with a progress bar; the workers end with the process that started them."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from signal import SIGINT, signal
from threading import Thread
from typing import Any

from tqdm.auto import tqdm


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    num_proc: int,
    bar: tqdm,
    initializer: Callable[..., None] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Iterator[Any]:
    """Yields the results of `function(*job)` as they come, moving the bar by one for each.

    With one process everything runs in this one.

    Raises:
        ValueError: `num_proc` is below 1.
    """
    if num_proc < 1:
        raise ValueError(f"num_proc is {num_proc}, but at least 1 process is needed; give the number of cores")
    if num_proc == 1:
        if initializer is not None and jobs:
            initializer(*initargs)
        for job in jobs:
            result = function(*job)
            bar.update()
            yield result
        return
    pool = ProcessPoolExecutor(
        num_proc, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(initializer, initargs)
    )
    try:
        for done in as_completed([pool.submit(function, *job) for job in jobs]):
            result = done.result()
            bar.update()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(initializer: Callable[..., None] | None, initargs: tuple[Any, ...]) -> None:
    signal(SIGINT, lambda *_: os._exit(130))  # Ctrl-C: what there is to say, the process that started it says
    _end_with_parent()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    """Lets a worker end when the run that started it is killed, so that it does not write beside the next run."""
    parent = parent_process()
    assert parent is not None, "only worker processes call this"

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()
