r"""Show whether the memory pays, from nothing: which share of the gap to full attention it closes, rung by rung.

    hf-moshi-ttt prove --size cpu --dry-run
    hf-moshi-ttt prove --size cpu --output runs/proof
    hf-moshi-ttt prove --size cpu --output runs/proof_again --seeds 3 4 5 --data runs/proof/data
    hf-moshi-ttt prove --size cpu --output runs/proof --codes runs/demo/codes --rungs refrain

A rung trains models from scratch on one task and asks them one question. Writes OUTPUT/proof.json, proof.md and three
figures after each rung; runs that are in OUTPUT are not made again with the same settings, codes, source
files and versions.
"""

import argparse
import shlex
from pathlib import Path
from typing import Any

from .parser import SEED, UsageError, add_json, device_of, whole, wrong_settings

SIZES = ("smoke", "cpu", "gpu", "7b")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--size", choices=SIZES, default="cpu", help="a plan that comes with the package (%(default)s)")
    chosen.add_argument("--config", metavar="FILE", help="a plan of one's own, in place of --size")
    parser.add_argument("--output", type=Path, default=Path("runs/proof"), help="folder for everything (%(default)s)")
    parser.add_argument("--rungs", nargs="+", default=[], help="names of the rungs to run (all of the plan)")
    parser.add_argument("--seeds", type=SEED, nargs="+", help="seeds of the main comparison (the plan's)")
    parser.add_argument("--jobs", type=whole(1), default=2, help="runs side by side (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where the models are trained (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run and what it costs, and stop")
    speech = parser.add_argument_group("speech")
    given = speech.add_mutually_exclusive_group()
    given.add_argument("--data", type=Path, help="folder of a corpus and its codes, made if missing (OUTPUT/data)")
    given.add_argument("--codes", type=Path, help="folder with librilight_train and librilight_heldout, as prepared")
    speech.add_argument("--codec", help="name or path of the codec of the codes (as their provenance says)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Runs the rungs that are not done yet; prints the costs with `--dry-run`, else returns the results."""
    from ..proof.costs import plan_lines, recipe_lines
    from ..proof.plan import read_plan, require_seeds
    from ..shipped_files import configuration_file

    with wrong_settings():
        plan = read_plan(arguments.config or configuration_file(arguments.size, "proof"))
        rungs = plan.select(arguments.rungs)
        seeds = arguments.seeds or plan.seeds
        require_seeds(seeds)
    if arguments.dry_run:
        lines = plan_lines(plan, rungs, seeds, arguments.jobs) if plan.recipe is None else recipe_lines(plan.recipe)
        print(*lines, sep="\n")
        return None
    if plan.recipe is not None:
        raise UsageError(f"{plan.title}: this plan is a recipe, which --dry-run prints; it is not run by this command.")
    return _prove(arguments, plan, rungs, seeds)


def _prove(arguments: argparse.Namespace, plan: Any, rungs: Any, seeds: list[int]) -> dict[str, Any]:
    from ..proof.run import RESULTS_FILE, Where, needs_codes, prepare_codes, prove, require_own_results
    from ..training.recall_run import run_arm
    from ..training.recall_series import run_series
    from .console import main

    def say(text: str) -> None:
        print(text, flush=True)

    device = device_of(arguments.device)
    with wrong_settings():
        require_own_results(arguments.output / RESULTS_FILE, plan.title)
    if arguments.codes is not None and not arguments.codes.is_dir():
        raise UsageError(f"--codes {arguments.codes}: no such folder; leave it out to have a corpus made and encoded")
    codes = arguments.codes or (arguments.data or arguments.output / "data") / "codes"
    if arguments.codes is None and needs_codes(rungs):
        prepare_codes(codes.parent, plan.corpus, rungs, say, main)
    where = Where(codes, arguments.codec, arguments.jobs, device)
    facts = {"command": command_of(arguments), "seeds": seeds}
    results = prove(
        plan, rungs, where, arguments.output, facts, say, lambda request, output: run_series(request, output, run_arm)
    )
    print(f"{arguments.output / 'proof.md'}, {arguments.output / 'proof.json'} and figures beside them")
    return results


def command_of(arguments: argparse.Namespace) -> str:
    """The command line that asks for the same."""
    words = ["hf-moshi-ttt", "prove"]
    for key, value in vars(arguments).items():
        if key in ("json", "debug", "dry_run") or value is None or value == [] or (key == "size" and arguments.config):
            continue
        words += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
