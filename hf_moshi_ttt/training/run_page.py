"""One standalone HTML page about a run, finished or not: what to look at, curves, samples, settings."""

import base64
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from ..evaluation.memory_curves import memory_by_step
from ..evaluation.memory_plot import plot_memory
from ..evaluation.preflight import Finding
from ..memory.diagnostics import LOG_PREFIX
from .curve_pictures import FOLDER as CURVES
from .samples import FOLDER as SAMPLES
from .training_plot import plot_training

_TEMPLATE = Path(__file__).with_name("run.html.jinja")
_SAMPLED_STEPS = 2  # the first and the last ones that a page holds


def write_run_page(
    folder: Path,
    entries: Sequence[dict[str, Any]],
    findings: Sequence[Finding],
    sections: dict[str, dict[str, Any]],
    path: Path,
) -> None:
    """Writes the page, which holds all pictures and sounds itself.

    Args:
        folder: of the run.
        entries: the lines of its metrics.jsonl.
        sections: tables of facts by title.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        run=str(folder),
        findings=findings,
        pictures=_pictures(folder, entries),
        samples=_samples(folder),
        sections=sections,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _pictures(folder: Path, entries: Sequence[dict[str, Any]]) -> dict[str, str]:
    """PNGs in base64 by title: curves, memories, and the newest loss by position."""
    pictures = {}
    with tempfile.TemporaryDirectory() as drawn:
        curves, memory = Path(drawn, "curves.png"), Path(drawn, "memory.png")
        if any("loss" in entry for entry in entries):
            plot_training(entries, curves, str(folder))
            pictures["Curves"] = _base64(curves)
        if any(name.startswith(LOG_PREFIX) for entry in entries for name in entry):
            plot_memory(memory_by_step(entries), memory)
            pictures["What the memories do"] = _base64(memory)
    for path in _by_step(folder / CURVES, ".png")[-1:]:
        pictures[f"Loss by position of held-out recordings, {path.stem.replace('-', ' ')}"] = _base64(path)
    return pictures


def _samples(folder: Path) -> list[dict[str, Any]]:
    """Samples of the first and the last step that has any, with their sound in base64."""
    steps = [path for path in _by_step(folder / SAMPLES, "") if (path / "samples.json").is_file()]
    chosen = steps if len(steps) <= _SAMPLED_STEPS else [steps[0], steps[-1]]
    return [
        {**sample, "step": step.name.replace("-", " "), "sound": _base64(step / sample["wav"])}
        for step in chosen
        for sample in json.loads((step / "samples.json").read_text(encoding="utf-8"))
    ]


def _by_step(folder: Path, suffix: str) -> list[Path]:
    """`step-N` with an ending in a folder, in the order of the steps."""
    return sorted(folder.glob(f"step-*{suffix}"), key=lambda path: int(path.stem.removeprefix("step-")))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
