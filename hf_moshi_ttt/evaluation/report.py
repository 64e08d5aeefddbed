"""One standalone HTML page with numbers, verdicts, findings and pictures of an evaluation."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from ..codec.audio import sec_from_frames

_TEMPLATE = Path(__file__).with_name("report.html.jinja")


def write_report(results: dict[str, Any], pictures: Mapping[str, Path], path: str | Path) -> None:
    """Writes the page.

    Args:
        results: those of `results.json`.
        pictures: title -> PNG, which the page then holds itself.
    """
    keys = dict.fromkeys(
        key
        for model in results["models"].values()
        for key, value in model.items()
        if key.startswith("librilight_") and isinstance(value, float)
    )
    frames = results["models"][results["model"]]["librilight_frames"]
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        results=results,
        keys=list(keys),
        hours=f"{sec_from_frames(frames) / 3600:.2f}",
        pictures={title: base64.b64encode(file.read_bytes()).decode() for title, file in pictures.items()},
    )
    Path(path).write_text(page, encoding="utf-8")
