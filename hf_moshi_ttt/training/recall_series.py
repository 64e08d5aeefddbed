"""Many runs of a recall task side by side: each a process with one thread, kept on disk when it has finished."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.workers import run_jobs
from ..evaluation.results_file import made_with
from ..settings import read_settings
from .kept_runs import describe, keep_run, kept_run, run_path
from .non_finite import NonFiniteError
from .recall_report import summarise
from .recall_setup import RecallSetup, Speech, make_setup, parse_arm
from .recall_size import LAST_SEED, SPEECH_TASKS, size_of
from .recall_speech import load_recordings, load_said, load_speakers, require_apart
from .run_files import commit, hardware

RunArm = Callable[[RecallSetup, str, int, Callable[[], None]], dict[str, Any]]
_POLL_SEC = 0.5
_NUM_IDS = 64
_DESCRIBED = ("task", "train_codes", "test_codes", "codec", "num_ids", "num_codebooks", "also", "device", "variants",
    "train_variants", "apart")  # fmt: skip
_steps_done: Any = None


@dataclass(frozen=True)
class RecallRequest:
    """What is asked for.

    Args:
        arms: as `recall_setup.parse_arm` reads them.
        first_seed_arms: further arms, which are run with the first seed alone.
        also: further tests of the same models, as `make_setup` takes them.
        changes: keys of `RecallSize` with other values.
        train_codes: folder of encoded recordings, for the tasks of speech; `test_codes` of held-out ones.
        codec: name or path of their codec; as their provenance names it, if None.
        num_ids: groups of the ids of each codebook, of which the first `num_codebooks` are taken.
        variants: file of held-out recordings in other forms, for the task of that name; with `train_variants` models
            are trained on passages that return in other forms, and else on some that return as they are.
        apart: speakers of `test_codes` whose recordings are tested apart too.
        jobs: runs side by side.
        device: where the models are trained.
    """

    task: str
    arms: Sequence[str]
    seeds: Sequence[int]
    changes: dict[str, Any]
    train_codes: str | None = None
    test_codes: str | None = None
    codec: str | None = None
    num_ids: int = _NUM_IDS
    num_codebooks: int = 1
    variants: str | None = None
    train_variants: str | None = None
    jobs: int = 2
    device: str = "cpu"
    first_seed_arms: Sequence[str] = ()
    also: Sequence[str] = ()
    apart: Sequence[str] = ()

    def __post_init__(self) -> None:
        size_of(self.task, self.changes)
        for arm in (*self.arms, *self.first_seed_arms):
            parse_arm(arm)
        for name, given in (("arms", [*self.arms, *self.first_seed_arms]), ("seeds", list(self.seeds))):
            if not given or len(set(given)) < len(given):
                raise ValueError(f"{name}={given!r}, but it must name at least one and each once.")
        if not all(0 <= seed <= LAST_SEED for seed in self.seeds):
            raise ValueError(f"seeds={list(self.seeds)}, but seeds are whole numbers from 0 to {LAST_SEED}.")
        if self.jobs < 1:
            raise ValueError(f"jobs={self.jobs}, but it must be at least 1.")
        given = [name for name in ("variants", "train_variants") if getattr(self, name) is not None]
        if given and "variants" not in (self.task, *self.also):
            raise ValueError(f"{', '.join(given)} given, but only the task 'variants' has returns in other forms.")
        is_speech, has_codes = self.task in SPEECH_TASKS, self.train_codes is not None and self.test_codes is not None
        if is_speech != has_codes:
            raise ValueError(
                f"task={self.task!r}, train_codes={self.train_codes!r} and test_codes={self.test_codes!r}, but the "
                f"tasks {', '.join(SPEECH_TASKS)} need both, and no other takes them."
            )
        of_speech = {"codec": None, "num_ids": _NUM_IDS, "num_codebooks": 1}
        unread = [f"{name}={getattr(self, name)!r}" for name, own in of_speech.items() if getattr(self, name) != own]
        if unread and not is_speech:
            raise ValueError(
                f"{', '.join(unread)}, but task={self.task!r} is not drawn from speech and reads no codes."
            )
        if self.apart and not is_speech:
            raise ValueError(f"apart={list(self.apart)}, but nobody speaks in task={self.task!r}.")

    @classmethod
    def parse(cls, settings: Sequence[str], steps: int | None, **given: Any) -> "RecallRequest":
        """A request of `key=value` settings of `RecallSize`.

        Raises:
            ValueError: a setting that is no `key=value`, or steps that are given twice.
        """
        changes = read_settings([], list(settings))
        if steps is not None and "steps" in changes:
            raise ValueError(f"--steps {steps} and steps={changes['steps']}: give one of them.")
        return cls(changes=changes | ({} if steps is None else {"steps": steps}), **given)

    def make_setup(self, speech: Speech | None = None) -> RecallSetup:
        """The task.

        Args:
            speech: what `load_speech` returned; it is read if None.
        """
        return make_setup(self.task, self.changes, speech or self.load_speech(), self.also, self.device)

    def load_speech(self) -> Speech | None:
        """The recordings that the task is drawn from, where it is one of speech.

        Raises:
            ValueError: codes that cannot be read, or do not go together.
        """
        if self.train_codes is None or self.test_codes is None:
            return None
        from .recall_variants import load_renderings, with_all_forms

        asks_lines = bool({"lines", "long_pieces"} & {self.task, *self.also})
        how = (self.num_ids, self.codec, self.num_codebooks)
        require_apart(self.train_codes, self.test_codes)
        train, heldout = (load_recordings(codes, *how) for codes in (self.train_codes, self.test_codes))
        return Speech(
            self.num_ids, train, heldout,
            variants=load_renderings(self.variants, *how) if self.variants else {},
            train_variants=with_all_forms(load_renderings(self.train_variants, *how)) if self.train_variants else (),
            said=load_said(self.test_codes, heldout) if asks_lines else (),
            apart=self._apart(self.test_codes, heldout),
        )  # fmt: skip

    def _apart(self, codes: str, recordings: Sequence[Any]) -> dict[str, list[Any]]:
        if not self.apart:
            return {}
        speakers = load_speakers(codes)
        for missing in sorted(set(self.apart) - set(speakers)):
            known = ", ".join(sorted(set(speakers)))
            raise ValueError(f"apart={missing!r}, but the speakers of {codes} are {known}.")
        pairs = list(zip(speakers, recordings, strict=True))
        return {name: [recording for speaker, recording in pairs if speaker == name] for name in self.apart}

    def runs(self) -> list[tuple[str, int]]:
        """Every run, by arm and seed."""
        every = [(arm, seed) for arm in self.arms for seed in self.seeds]
        return [*every, *((arm, self.seeds[0]) for arm in self.first_seed_arms)]


def run_series(request: RecallRequest, output: Path, run_arm: RunArm) -> dict[str, Any]:
    """Every arm with every seed; a run that is in `output/runs` with the same settings is not made again.

    Args:
        run_arm: makes one run, as `recall_run.run_arm` does.

    Returns:
        `task`, `size`, `settings`, `chance_nats`, `made_with`, `commit`, `hardware`, the `runs` and their `summary`.

    Raises:
        ValueError: settings that are wrong or do not fit the data, before anything runs.
    """
    speech = request.load_speech()
    setup = request.make_setup(speech)
    asked = {key: getattr(request, key) for key in _DESCRIBED}
    wanted, folder = request.runs(), output / "runs"
    settings = {arm: describe(setup, arm, speech, asked) for arm, _ in wanted}
    files = {(arm, seed): run_path(folder, arm, seed, settings[arm]) for arm, seed in wanted}
    kept = {run: kept_run(path, settings[run[0]]) for run, path in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    missing = [run for run, found in kept.items() if found is None]
    for found in _run_all(request, missing, setup.size.steps, run_arm):
        run = found["arm"], found["seed"]
        keep_run(files[run], found, settings[run[0]])
        kept[run] = {**found, "settings": settings[run[0]]}
    runs = [found for found in kept.values() if found is not None]
    return {
        "schema": 1, "task": request.task, "size": asdict(setup.size), "settings": asdict(request),
        "chance_nats": setup.chance_nats, "made_with": made_with(torch.device(request.device)), "commit": commit(),
        "hardware": hardware(), "runs": runs, "summary": summarise(runs),
    }  # fmt: skip


def _run_all(
    request: RecallRequest, runs: Sequence[tuple[str, int]], steps: int, run_arm: RunArm
) -> Iterator[dict[str, Any]]:
    """Yields what each run found, as they finish, with a progress bar that counts runs and steps."""
    done = multiprocessing.get_context("spawn").Value("q", 0)
    jobs = [(run_arm, request, arm, seed) for arm, seed in runs]
    with tqdm(total=len(runs), unit="run") as bar, _steps_shown(bar, done, steps * len(runs)):
        yield from run_jobs(_run_one, jobs, request.jobs, bar, _start_worker, (done,))


@contextmanager
def _steps_shown(bar: tqdm, done: Any, total: int) -> Iterator[None]:
    """Shows beside the bar how many steps all runs have taken."""
    ended = Event()

    def show() -> None:
        while not ended.wait(_POLL_SEC):
            bar.set_postfix_str(f"{done.value} of {total} steps")

    thread = Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _start_worker(done: Any) -> None:
    global _steps_done
    _steps_done = done
    torch.set_num_threads(1)
    logging.set_verbosity_error()


def _run_one(run_arm: RunArm, request: RecallRequest, arm: str, seed: int) -> dict[str, Any]:
    try:
        return run_arm(request.make_setup(), arm, seed, _count_step)
    except NonFiniteError as error:
        raise NonFiniteError(
            f"arm {arm!r} of seed {seed}: {error} It proves nothing: lower learning_rate, or leave the arm out. What "
            "has finished is kept."
        ) from error


def _count_step() -> None:
    with _steps_done.get_lock():
        _steps_done.value += 1
