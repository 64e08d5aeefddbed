"""A plan of a proof: rungs, each a task with the arms that are trained on it and the tests that decide.

A plan is a YAML file. A rung trains models of its own; all its tests are asked of the same models.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_origin

from ..settings import read_settings, typed_values

RULES = ("gap", "ahead", "equal", "harmless")
LAST, OTHER, HEARINGS = "last", "other", "hearings"


@dataclass(frozen=True)
class Criterion:
    """What is asked of the rung's memory at one place of one test.

    Args:
        test: name of the test.
        at: number of the hearing, `last`, `hearings` for the mean of them all, or `other` for the frames outside of
            what returns.
        rule: `gap` (it closes enough of the gap), `ahead` (better than `static`), `equal` (no different from it) or
            `harmless` (no worse).
        least: of rule `gap`, the least gap closed.
        low_above: of rule `gap`, what the lower end of its interval must lie above.
    """

    test: str
    at: str = LAST
    rule: str = "gap"
    least: float = 0.0
    low_above: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r} of test {self.test!r}, but the rules are {', '.join(RULES)}.")
        if self.at not in (LAST, OTHER, HEARINGS) and not self.at.isdecimal():
            raise ValueError(
                f"at={self.at!r} of test {self.test!r}, but it is {LAST}, {OTHER}, {HEARINGS} or a hearing's number."
            )
        if self.at == HEARINGS and self.rule == "gap":
            raise ValueError(
                f"at={HEARINGS!r} of test {self.test!r}, but rule='gap' is of one hearing: give its number."
            )
        for key in ("least", "low_above"):
            value = getattr(self, key)
            if not 0 <= value <= 1:
                raise ValueError(f"{key}={value!r} of test {self.test!r}, but it is a share of the gap, from 0 to 1.")
            if value and self.rule != "gap":
                raise ValueError(
                    f"{key}={value!r} of test {self.test!r}, but rule={self.rule!r} reads it not: leave it out."
                )


@dataclass(frozen=True)
class Rung:
    """One step: models trained on a task, and what they are asked.

    Args:
        question: in one sentence.
        task: a task of `hf-moshi-ttt recall`.
        arms: the main comparison, run with every seed; `static` among them, and the `reference` where a gap is judged.
        criteria: what decides.
        first_seed_arms: further arms, run with the first seed.
        also: further tests of the same models, by name of their task or set.
        size: keys of `RecallSize` with other values.
        memory: the arm that is judged.
        corpus: of tasks of speech, `librilight` or one of `corpora.PROGRAMMES`; its codes are in CORPUS_train and
            CORPUS_heldout, and other forms of its recordings in CORPUS_heldout_variants.safetensors.
        apart: speakers of the held-out codes whose recordings are tested apart too.
        train_variants: of the task `variants`, whether returns in other forms are trained on; else it is those that
            return as they are.
        num_ids: groups of the ids of each codebook, of which the first `num_codebooks` are taken.
        seeds: how many of the plan's seeds the rung takes; all if None.
        reference: the arm that shows what can be reached, to which gaps are: `full`, or `copy` where full attention
            does not learn to find in so few steps.
        ceilings: of a test, the test where the reference shows it; the test itself if it is not named.
        run_sec: time of a run as measured, for the estimate.
    """

    name: str
    question: str
    task: str
    arms: list[str]
    criteria: list[Criterion]
    first_seed_arms: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)
    size: dict[str, Any] = field(default_factory=dict)
    memory: str = "ttt"
    reference: str = "full"
    corpus: str = "librilight"
    apart: list[str] = field(default_factory=list)
    train_variants: bool = False
    num_ids: int = 64
    num_codebooks: int = 1
    seeds: int | None = None
    ceilings: dict[str, str] = field(default_factory=dict)
    run_sec: float = 0.0

    def __post_init__(self) -> None:
        self._require_known()
        has_gap = any(criterion.rule == "gap" for criterion in self.criteria)
        needed = ["static", *([self.reference] if has_gap else []), self.memory]
        missing = [arm for arm in needed if arm not in self.arms]
        if missing:
            raise ValueError(f"arms={self.arms} of rung {self.name!r}: {', '.join(missing)} must be among them.")
        if self.seeds is not None and self.seeds < 1:
            raise ValueError(f"seeds={self.seeds} of rung {self.name!r}, but it must be at least 1.")

    def _require_known(self) -> None:
        """Refuses what can be told to be wrong before any codes are there."""
        from ..training.recall_setup import TEST_SETS, parse_arm
        from ..training.recall_size import SPEECH_TASKS, TASKS, size_of

        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"name={self.name!r} of a rung, but it is that of a folder: letters, digits, _, - and dots."
            )
        arms = [*self.arms, *self.first_seed_arms]
        twice = [arm for arm in arms if arms.count(arm) > 1]
        if twice:
            raise ValueError(f"arm {twice[0]!r} is named twice in rung {self.name!r}; name it once.")
        if self.memory in ("static", self.reference):
            raise ValueError(f"memory={self.memory!r} of rung {self.name!r}, but it is compared with static and to it.")
        known = (*TASKS, *TEST_SETS)
        unknown = [name for name in self.also if name not in known]
        if unknown:
            raise ValueError(f"also={unknown[0]!r} of rung {self.name!r}, but further tests are {', '.join(known)}.")
        try:
            size_of(self.task, self.size)
            for arm in arms:
                parse_arm(arm)
        except ValueError as error:
            raise ValueError(f"rung {self.name!r}: {error}") from error
        if self.num_ids < 2 or self.num_codebooks < 1 or not 0 <= self.run_sec < math.inf:
            raise ValueError(
                f"num_ids={self.num_ids!r}, num_codebooks={self.num_codebooks!r} and run_sec={self.run_sec!r} of rung "
                f"{self.name!r}, but these are at least 2, 1 and 0."
            )
        of_speech = {"corpus": "librilight", "apart": [], "train_variants": False}
        given = [name for name, own in of_speech.items() if getattr(self, name) != own]
        if given and self.task not in SPEECH_TASKS:
            raise ValueError(f"{', '.join(given)} of rung {self.name!r}, but task={self.task!r} reads no recordings.")

    @property
    def asks_variants(self) -> bool:
        """Whether any test is of recordings in other forms."""
        return "variants" in (self.task, *self.also)

    def take_seeds(self, seeds: Sequence[int]) -> list[int]:
        """The first seeds of a plan, as many as this rung takes."""
        return list(seeds[: self.seeds])

    def count_runs(self, seeds: Sequence[int]) -> int:
        """How many models are trained."""
        return len(self.arms) * len(self.take_seeds(seeds)) + len(self.first_seed_arms)


@dataclass(frozen=True)
class CorpusSize:
    """How much is read aloud where no codes are given; programmes where a rung's corpus are these."""

    train_hours: float = 5.0
    eval_minutes: float = 60.0
    conversations: int = 20
    codec_minutes: float = 20.0
    programme_hours: float = 10.0
    programme_minutes: float = 60.0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ValueError(f"corpus.{key}={value!r}, but it must be above 0.")


@dataclass(frozen=True)
class Recipe:
    """A proof that is only worked out here: its models, frames and commands.

    Args:
        preset: of the model.
        config: keys of the configuration beside the preset, as in a configuration of training.
        arms: by name, the changes of `config` that make it.
        seeds: runs of each arm.
        train_frames: that each run sees, `segment_frames` at a time; `eval_frames` are held out.
        peak_flops: of a GPU, of which `utilisation` is reached.
        commands: what is run, one a line.
    """

    preset: str
    config: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    seeds: int
    train_frames: int
    segment_frames: int
    eval_frames: int
    peak_flops: float
    utilisation: float
    commands: list[str]

    def __post_init__(self) -> None:
        for key in ("seeds", "train_frames", "segment_frames", "eval_frames", "peak_flops", "utilisation"):
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"recipe.{key}={getattr(self, key)!r}, but it must be above 0.")
        if self.utilisation > 1 or not self.arms:
            raise ValueError(
                f"recipe: utilisation={self.utilisation!r}, arms={self.arms!r}, but it is at most 1, of any arm."
            )


@dataclass(frozen=True)
class Plan:
    """What is proved and what it is proved on.

    Args:
        headroom_nats: below this, between `static` and a rung's reference, no gap is spoken of.
        timed_on: what the times of the runs were measured on.
        recipe: in place of rungs, what is not run here.
    """

    title: str
    rungs: list[Rung] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    headroom_nats: float = 0.1
    timed_on: str = "one core"
    corpus: CorpusSize = CorpusSize()
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.headroom_nats < math.inf:
            raise ValueError(f"headroom_nats={self.headroom_nats!r}, but it must be 0 or more.")
        require_seeds(self.seeds)
        names = [rung.name for rung in self.rungs]
        if len(set(names)) < len(names):
            raise ValueError(f"rungs are called {names}, but each needs a name of its own.")

    def select(self, names: Sequence[str]) -> list[Rung]:
        """The rungs of these names in the plan's order; all of them without names.

        Raises:
            ValueError: a name that no rung has.
        """
        known = [rung.name for rung in self.rungs]
        wrong = [name for name in names if name not in known]
        if wrong:
            raise ValueError(f"rungs={wrong}, but the plan has {', '.join(known) or 'none'}.")
        return [rung for rung in self.rungs if not names or rung.name in names]


def require_seeds(seeds: Sequence[int]) -> None:
    """Raises ValueError where there is none, one twice, or one out of bounds."""
    from ..training.recall_size import LAST_SEED

    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed <= LAST_SEED for seed in seeds):
        raise ValueError(f"seeds={list(seeds)}, but they are one or more different numbers from 0 to {LAST_SEED}.")


def read_plan(path: str) -> Plan:
    """The plan in a YAML file.

    Raises:
        ValueError: no such file, an unknown or missing key, or a value of another type.
    """
    values = read_settings(path, [])
    rungs = [_read_rung(rung) for rung in _listed(values.pop("rungs", []), "rungs")]
    for key, kind in (("corpus", CorpusSize), ("recipe", Recipe)):
        if key in values:
            values[key] = _build(kind, values[key], f"{key}.")
    plan: Plan = _build(Plan, {**values, "rungs": rungs}, "")
    if bool(plan.rungs) == (plan.recipe is not None):
        found = f"{len(plan.rungs)} rungs and {'no' if plan.recipe is None else 'a'} recipe"
        raise ValueError(f"{path}: {found}, but a plan has either rungs or a recipe.")
    return plan


def _listed(values: Any, key: str) -> list[Any]:
    if not isinstance(values, list):
        raise ValueError(f"{key}={values!r}, but it must be a list.")
    return values


def _read_rung(values: dict[str, Any]) -> Rung:
    if not isinstance(values, dict):
        raise ValueError(f"rungs: {values!r}, but a rung is a mapping with a name.")
    section = f"rung {values.get('name')!r}: "
    given = _listed(values.get("criteria", []), f"{section}criteria")
    criteria = [_build(Criterion, each, f"{section}criteria: ") for each in given]
    return _build(Rung, {**values, "criteria": criteria}, section)


def _build(kind: Any, values: dict[str, Any], section: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{section.rstrip('.: ')}={values!r}, but it must be a mapping of keys to values.")
    for item in fields(kind):
        shape = get_origin(item.type)
        if item.name in values and shape in (list, dict) and not isinstance(values[item.name], shape):
            raise ValueError(f"{section}{item.name}={values[item.name]!r}, but it must be a {shape.__name__}.")
    known = [item.name for item in fields(kind)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise ValueError(f"{section}{unknown[0]} is no key; the keys are {', '.join(known)}.")
    try:
        return kind(**typed_values(kind, values, section))
    except TypeError as error:  # a key without a default is missing
        raise ValueError(f"{section}{error}.") from error
