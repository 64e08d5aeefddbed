"""What the runs of a rung say: losses, differences and gaps of every arm, and whether the comparison is fair."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .gaps import Gap, Interval, Rows, difference, gap_closed
from .plan import HEARINGS, LAST, OTHER, Rung

Runs = Sequence[dict[str, Any]]


class Losses:
    """The losses of a rung's runs by arm, test and place (the number of a hearing, or `other`).

    Args:
        runs: as `recall_run.run_arm` makes them.
        reference: the arm that shows what can be reached.
        ceilings: of a test, the test where it does.
    """

    def __init__(self, runs: Runs, ceilings: dict[str, str], headroom_nats: float, reference: str = "full") -> None:
        self.ceilings, self.headroom_nats, self.reference = ceilings, headroom_nats, reference
        self.runs = {(run["arm"], run["seed"]): run for run in runs}
        self.arms = list(dict.fromkeys(run["arm"] for run in runs))
        self.tests = list(runs[0]["tests"])

    def seeds(self, *arms: str) -> list[int]:
        """The seeds that all these arms have."""
        return [seed for arm, seed in self.runs if arm == arms[0] and all((each, seed) in self.runs for each in arms)]

    def places(self, test: str) -> list[str]:
        """The places of a test that have losses."""
        found = next(iter(self.runs.values()))["tests"][test]
        heard = [str(number) for number in range(1, len(found["hearing_rows"]) + 1)]
        return [*heard, OTHER] if found["other_rows"] else heard

    def place(self, test: str, at: str) -> str:
        """The place that `at` names.

        Raises:
            ValueError: the test has no such place.
        """
        places = self.places(test)
        heard = [place for place in places if place != OTHER]
        found = (heard or places)[-1] if at == LAST else at
        if found not in places and not (found == HEARINGS and heard):
            raise ValueError(f"at={at!r}, but test {test!r} has {', '.join(places)}.")
        return found

    def rows(self, arm: str, seeds: Sequence[int], test: str, place: str) -> Rows:
        """The losses, and the recordings that the sequences are cut from.

        Raises:
            ValueError: a run that has none of some sequence, or one that is NaN or infinite.
        """
        tests = [self.runs[arm, seed]["tests"][test] for seed in seeds]
        rows = [_rows_at(each, place) for each in tests]
        for seed, found in zip(seeds, rows, strict=True):
            if found is None or not np.isfinite(found).all():
                raise ValueError(
                    f"arm {arm!r} of seed {seed} has no finite loss of every sequence of {test!r}, {place}."
                )
        return Rows(np.array(rows), _recordings_at(tests[0], place))

    def less(self, arm: str, base: str, test: str, place: str) -> Interval | None:
        """The arm's loss less that of `base`; None where no seed has both, or for the arm itself."""
        seeds = self.seeds(arm, base)
        if arm == base or not seeds:
            return None
        return difference(*(self.rows(each, seeds, test, place) for each in (arm, base)))

    def gap(self, arm: str, test: str, place: str) -> Gap | None:
        """The gap that an arm closes; None where no seed has it, `static` and the reference."""
        seeds = self.seeds(arm, "static", self.reference)
        if not seeds:
            return None
        ceiling = test if place == OTHER else self.ceilings.get(test, test)
        own, static = (self.rows(each, seeds, test, place) for each in (arm, "static"))
        return gap_closed(own, static, self.rows(self.reference, seeds, ceiling, place), self.headroom_nats)

    def positions(self, test: str) -> dict[str, list[float | None]]:
        """Each arm's mean loss over seeds at each frame."""
        return {arm: _mean_positions([run["tests"][test]["positions"] for run in self._of(arm)]) for arm in self.arms}

    def facts(self) -> dict[str, dict[str, Any]]:
        """Of each arm its seeds, parameters, frames of training, and the mean processor time of a run."""
        return {
            arm: {
                "seeds": [run["seed"] for run in runs],
                "parameters": runs[0]["parameters"],
                "train_frames": runs[0]["train_frames"],
                "cpu_sec": float(np.mean([run["cpu_sec"] for run in runs])),
            }
            for arm in self.arms
            if (runs := self._of(arm))
        }

    def fairness(self) -> dict[str, Any]:
        """Whether all arms of a seed saw the same frames in the same order, and how parameters differ from static's."""
        seen: dict[int, set[tuple[int, str]]] = {}
        for (_, seed), run in self.runs.items():
            seen.setdefault(seed, set()).add((run["train_frames"], run["train_sha256"]))
        facts = self.facts()
        static = facts["static"]["parameters"]
        return {
            "same_frames_in_order": all(len(kinds) == 1 for kinds in seen.values()),
            "parameters_less_static": {arm: fact["parameters"] - static for arm, fact in facts.items()},
        }

    def _of(self, arm: str) -> list[dict[str, Any]]:
        return [run for (name, _), run in self.runs.items() if name == arm]


def _rows_at(test: dict[str, Any], place: str) -> Any:
    """The losses `[R]` of a run at a place; None where some sequence has none."""
    if place == OTHER:
        return test["other_rows"]
    if place == HEARINGS:
        rows = test["hearing_rows"]
        return None if None in rows else np.mean(rows, axis=0)
    return test["hearing_rows"][int(place) - 1]


def _recordings_at(test: dict[str, Any], place: str) -> list[int] | None:
    """The recording of each sequence at a place; of all hearings together that of the first."""
    if place == OTHER:
        return test["other_recordings"]
    return test["hearing_recordings"][0 if place == HEARINGS else int(place) - 1]


def _mean_positions(positions: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean at each frame; None where there is no prediction."""
    columns = zip(*positions, strict=True)
    return [None if None in column else round(float(np.mean(np.array(column))), 4) for column in columns]


def measure(rung: Rung, series: dict[str, Any], headroom_nats: float) -> dict[str, Any]:
    """The rung's results as they are written down.

    Args:
        series: what `recall_series.run_series` returned for it.
    """
    losses = Losses(series["runs"], rung.ceilings, headroom_nats, rung.reference)
    return {
        "name": rung.name, "question": rung.question, "task": rung.task, "memory": rung.memory,
        "reference": rung.reference, "size": series["size"],
        "arms": losses.facts(), "fairness": losses.fairness(), "made_with": series["made_with"],
        "commit": series["commit"], "hardware": series["hardware"],
        "tests": {test: _measure_test(losses, test) for test in losses.tests},
        "verdicts": judge(rung, losses),
    }  # fmt: skip


def _measure_test(losses: Losses, test: str) -> dict[str, Any]:
    places = losses.places(test)
    return {
        "ceiling": losses.ceilings.get(test, test),
        "last": losses.place(test, LAST),
        "places": {
            place: {arm: _measure_place(losses, arm, test, place) for arm in losses.arms} for place in places
        },
        "positions": losses.positions(test),
    }  # fmt: skip


def _measure_place(losses: Losses, arm: str, test: str, place: str) -> dict[str, Any]:
    by_seed = losses.rows(arm, losses.seeds(arm), test, place).losses_SR.mean(1)
    gap = losses.gap(arm, test, place)
    bases = {
        f"less_{base}": losses.less(arm, base, test, place) for base in ("static", "window") if base in losses.arms
    }
    return {
        "loss": float(by_seed.mean()), "min": float(by_seed.min()), "max": float(by_seed.max()),
        **{key: None if found is None else vars(found) for key, found in bases.items()},
        "headroom": None if gap is None else vars(gap.headroom),
        "gap_closed": None if gap is None or gap.closed is None else vars(gap.closed),
    }  # fmt: skip


def judge(rung: Rung, losses: Losses) -> list[dict[str, Any]]:
    """A verdict for each criterion: `passes` (None where nothing can be said), and what was `found` by which `rule`.

    Nothing can be said where arms of a seed saw different frames.
    """
    verdicts, is_fair = [], losses.fairness()["same_frames_in_order"]
    for criterion in rung.criteria:
        place = losses.place(criterion.test, criterion.at)
        gap = losses.gap(rung.memory, criterion.test, place) if criterion.rule == "gap" else None
        less = losses.less(rung.memory, "static", criterion.test, place)
        assert less is not None, "a rung's memory has the seeds of static"
        passes, rule, found = _JUDGES[criterion.rule](criterion, gap, less)
        found += ("" if less.seeds > 1 else "; one seed") + ("; one recording" if less.recordings == 1 else "")
        if not is_fair:
            passes, found = None, f"{found}; arms of a seed saw different frames"
        verdicts.append(
            {"test": criterion.test, "place": place, "arm": rung.memory, "passes": passes, "rule": rule, "found": found}
        )
    return verdicts


def _judge_gap(criterion: Any, gap: Gap | None, less: Interval) -> tuple[bool | None, str, str]:
    rule = f"gap closed at least {100 * criterion.least:.0f}%, interval above {100 * criterion.low_above:.0f}%"
    assert gap is not None, "a rung that judges a gap has its reference"
    if gap.closed is None or gap.closed.low is None:
        return None, rule, f"{gap}; less static's {less}"
    passes = gap.closed.value >= criterion.least and gap.closed.low > criterion.low_above
    return passes, rule, f"{gap}; less static's {less}"


def _judge_equal(criterion: Any, gap: Gap | None, less: Interval) -> tuple[bool | None, str, str]:
    passes = None if less.low is None or less.high is None else less.low <= 0 <= less.high
    return passes, "the difference to static contains 0", f"{less} nats"


def _judge_ahead(criterion: Any, gap: Gap | None, less: Interval) -> tuple[bool | None, str, str]:
    return None if less.high is None else less.high < 0, "the difference to static is surely below 0", f"{less} nats"


def _judge_harmless(criterion: Any, gap: Gap | None, less: Interval) -> tuple[bool | None, str, str]:
    return None if less.low is None else less.low <= 0, "the difference to static is not surely above 0", f"{less} nats"


_JUDGES = {"gap": _judge_gap, "ahead": _judge_ahead, "equal": _judge_equal, "harmless": _judge_harmless}
