"""A plan's rungs, one after the other; what has been made before is kept, and the results are written after each."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..demo.lanes import Run
from ..memory.recall_tasks import OTHER as OTHER_FRAME
from ..memory.recall_tasks import PassageTask, RecallTask
from .measure import measure
from .plan import HEARINGS, LAST, OTHER, CorpusSize, Plan, Rung
from .report import to_markdown

RESULTS_FILE = "proof.json"
Say = Callable[[str], None]
RunSeries = Callable[[Any, Path], dict[str, Any]]  # a RecallRequest and a folder to what run_series returns


@dataclass(frozen=True)
class Where:
    """What the runs are made with.

    Args:
        codes: folder with CORPUS_train and CORPUS_heldout for every corpus.
        codec: name or path of their codec; as their provenance names it, if None.
        jobs: runs side by side.
    """

    codes: Path
    codec: str | None = None
    jobs: int = 2
    device: str = "cpu"


def prepare_codes(data: Path, size: CorpusSize, rungs: Sequence[Rung], say: Say, run: Run) -> Path:
    """The folder of codes in `data`; makes a corpus, a codec and the codes as the demo does, where they are missing.

    Args:
        rungs: those that decide whether programmes and other forms of recordings are made too.
        run: runs a command line of `hf-moshi-ttt`.
    """
    from ..demo.stages import SIZES, Demo, data_stages, run_stages
    from .corpora import PROGRAMMES, programme_stages, variant_stage

    amounts = replace(
        SIZES["full"], train_hours=size.train_hours, eval_minutes=size.eval_minutes,
        conversations=size.conversations, codec_minutes=size.codec_minutes,
    )  # fmt: skip
    demo = Demo(data, amounts)
    stages = data_stages(demo)
    for corpus in dict.fromkeys(rung.corpus for rung in rungs if rung.corpus in PROGRAMMES):
        stages += programme_stages(data, demo.codec_path, corpus, size.programme_hours, size.programme_minutes)
    for corpus in dict.fromkeys(rung.corpus for rung in rungs if rung.asks_variants):
        stages.append(variant_stage(data, demo.codec_path, corpus))
    run_stages(stages, data, say, run)
    return data / "codes"


def needs_codes(rungs: Sequence[Rung]) -> bool:
    """Whether any rung is drawn from encoded speech."""
    from ..training.recall_size import SPEECH_TASKS

    return any(rung.task in SPEECH_TASKS for rung in rungs)


def make_request(rung: Rung, seeds: Sequence[int], where: Where) -> Any:
    """The rung as a `RecallRequest`."""
    from ..training.recall_series import RecallRequest
    from ..training.recall_size import SPEECH_TASKS
    from .corpora import variants_file

    train_variants, variants = (str(variants_file(where.codes, rung.corpus, part)) for part in ("train", "heldout"))
    is_speech = rung.task in SPEECH_TASKS
    train, heldout = (str(where.codes / f"{rung.corpus}_{part}") for part in ("train", "heldout"))
    return RecallRequest(
        task=rung.task, arms=rung.arms, seeds=rung.take_seeds(seeds), changes=rung.size,
        train_codes=train if is_speech else None, test_codes=heldout if is_speech else None,
        codec=where.codec if is_speech else None, num_ids=rung.num_ids, num_codebooks=rung.num_codebooks,
        jobs=where.jobs, device=where.device, first_seed_arms=rung.first_seed_arms, also=rung.also, apart=rung.apart,
        variants=variants if rung.asks_variants else None,
        train_variants=train_variants if rung.train_variants else None,
    )  # fmt: skip


def prove(
    plan: Plan,
    rungs: Sequence[Rung],
    where: Where,
    output: Path,
    facts: dict[str, Any],
    say: Say,
    run_series: RunSeries,
) -> dict[str, Any]:
    """Runs what is not done yet; writes proof.json, proof.md and the figures after each rung, and returns proof.json.

    Args:
        facts: the `command` and the `seeds`.

    Raises:
        ValueError: a rung that does not fit its codes or its models, before anything runs.
    """
    from ..evaluation.results_file import made_with
    from ..training.run_files import commit, hardware
    from ..whole_files import write_whole
    from .figures import draw_figures

    prepared = [_prepare(rung, where, facts["seeds"]) for rung in rungs]
    output.mkdir(parents=True, exist_ok=True)
    made = {"made_with": made_with(torch.device(where.device)), "commit": commit(), "hardware": hardware()}
    results = {"schema": 1, "title": plan.title, **facts, **made, "headroom_nats": plan.headroom_nats, "rungs": []}
    for number, (rung, request, known) in enumerate(prepared, start=1):
        say(f"[{number}/{len(rungs)}] {rung.name}: {rung.question}")
        found = known
        if request is not None:
            found = measure(rung, run_series(request, output / rung.name), plan.headroom_nats) | known
        for line in _lines_of(found):
            say(f"    {line}")
        results["rungs"].append(found)
        write_whole(output / RESULTS_FILE, json.dumps(results, indent=1) + "\n")
        write_whole(output / "proof.md", to_markdown(results) + "\n")
        draw_figures(results, output)
    return results


def require_own_results(path: Path, title: str) -> None:
    """Refuses to write over the results of another plan.

    Args:
        path: of the RESULTS_FILE that is to be written.
        title: the plan's.

    Raises:
        ValueError: there is a file that another plan made, or that is none.
    """
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no results in JSON ({error}). Remove it; the runs beside it are kept.") from error
    theirs = found.get("title") if isinstance(found, dict) else None
    if theirs != title:
        raise ValueError(f"{path} holds the results of {theirs!r}, but this is {title!r}: choose another --output.")


def _lines_of(found: dict[str, Any]) -> list[str]:
    missing = found.get("not_run") or found.get("left_out")
    verdicts = [
        f"{verdict['test']}: {verdict['found']}: {_SAID[verdict['passes']]} ({verdict['rule']})"
        for verdict in found.get("verdicts", [])
    ]
    return [f"left out: {missing}", *verdicts] if missing else verdicts


_SAID = {True: "passes", False: "fails", None: "nothing can be said"}


def _prepare(rung: Rung, where: Where, seeds: Sequence[int]) -> tuple[Rung, Any, dict[str, Any]]:
    """The rung, its request, and what is known of it before it runs; no request where its codes are not there."""
    from ..training.recall_setup import arm_config
    from .corpora import variants_file

    forms = variants_file(where.codes, rung.corpus, "heldout")
    if "variants" in rung.also and not forms.exists():
        rung = replace(rung, also=[name for name in rung.also if name != "variants"])
    request = make_request(rung, seeds, where)
    needed = (request.train_codes, request.test_codes, request.variants, request.train_variants)
    absent = [path for path in needed if path and not Path(path).exists()]
    if absent:
        said = f"no codes in {', '.join(absent)}"
        return rung, None, {"name": rung.name, "question": rung.question, "not_run": said}
    rung, silent = without_missing_speakers(rung, request.test_codes)
    request = replace(request, apart=rung.apart)
    setup = request.make_setup()
    rung, missing = without_missing_forms(rung, list(setup.tests))
    require_places(rung, setup.tests)
    for arm in (*rung.arms, *rung.first_seed_arms):
        arm_config(setup, arm)
    gaps_windows = {
        name: task.gap_frames / setup.size.window_frames
        for name, task in setup.tests.items()
        if isinstance(task, PassageTask) and task.hearings == 2
    }
    places = {str(forms): missing, str(request.test_codes): silent}
    left_out = "; ".join(f"{', '.join(names)}: not in {place}" for place, names in places.items() if names)
    return rung, request, {"gaps_windows": gaps_windows, "left_out": left_out or None}


def require_places(rung: Rung, tests: Mapping[str, RecallTask]) -> None:
    """Refuses criteria and ceilings that ask for a hearing, or for other frames, where a test has none.

    Raises:
        ValueError: with the rung, the test and the places that it has.
    """
    places = {name: _places_of(tests[name]) for name in (*rung.ceilings, *rung.ceilings.values())}
    for criterion in rung.criteria:
        found = places.setdefault(criterion.test, _places_of(tests[criterion.test]))
        known = {LAST, *found, *([HEARINGS] if tests[criterion.test].hearings else [])}
        if criterion.at not in known:
            raise ValueError(
                f"rung {rung.name!r}: at={criterion.at!r}, but test {criterion.test!r} has {', '.join(found)}."
            )
    for test, ceiling in rung.ceilings.items():
        lacking = [place for place in places[test] if place not in places[ceiling]]
        if lacking:
            raise ValueError(
                f"rung {rung.name!r}: ceilings: {test!r} has place {lacking[0]!r}, but its ceiling {ceiling!r} has "
                f"{', '.join(places[ceiling])}."
            )


def _places_of(task: RecallTask) -> list[str]:
    """The places of a test, as `Losses.places` finds them in its runs."""
    drawn = task.draw(1, torch.Generator().manual_seed(0)).hearing_BT
    heard = [str(number) for number in range(1, task.hearings + 1)]
    return [*heard, OTHER] if (drawn == OTHER_FRAME).any() else heard


def without_missing_speakers(rung: Rung, codes: str | None) -> tuple[Rung, list[str]]:
    """The rung without tests and criteria of speakers that held-out codes have not, and the names of these."""
    from ..training.recall_speech import load_speakers

    known = load_speakers(codes) if codes and rung.apart else []
    missing = [name for name in rung.apart if name not in known]
    kept = [name for name in rung.apart if name in known]
    of_missing = tuple(f"{name}: " for name in missing)
    criteria = [criterion for criterion in rung.criteria if not criterion.test.startswith(of_missing)]
    return replace(rung, apart=kept, criteria=criteria), missing


def without_missing_forms(rung: Rung, tests: Sequence[str]) -> tuple[Rung, list[str]]:
    """The rung without criteria of other forms that its file has not, and the names of these forms.

    Raises:
        ValueError: the rung names another test that its models are not asked.
    """
    from .corpora import TEST_FORMS

    named = [*(criterion.test for criterion in rung.criteria), *rung.ceilings, *rung.ceilings.values()]
    missing = [test for test in dict.fromkeys(named) if test not in tests]
    unknown = [test for test in missing if test not in TEST_FORMS.split(",")]
    if unknown:
        raise ValueError(f"rung {rung.name!r}: test {unknown[0]!r}, but its models are asked {', '.join(tests)}.")
    criteria = [criterion for criterion in rung.criteria if criterion.test not in missing]
    ceilings = {test: ceiling for test, ceiling in rung.ceilings.items() if test not in missing}
    return replace(rung, criteria=criteria, ceilings=ceilings), missing
