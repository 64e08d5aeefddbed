"""The page of a metric as a Space: a field an input, a field for settings, the numbers as JSON, the card below.

evaluate's own `launch_gradio_widget` has no field for settings, and runs with gradio 3 alone (it asks for
`gradio.inputs`), which needs numpy 1. A metric of recordings has a page of its own (metrics/turn_taking/app.py).
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)


def card_text(folder: str | Path) -> str:
    """The card of a metric (README.md) without the Space's settings at its top."""
    return _FRONT_MATTER.sub("", Path(folder, "README.md").read_text(encoding="utf-8"))


def compute_from_text(metric: Any, inputs: Sequence[str], settings: str) -> dict[str, Any]:
    """The numbers of a metric.

    Args:
        inputs: for each of the metric's features in order, a JSON list with an item a recording.
        settings: a JSON object of the other arguments of `compute`.

    Raises:
        ValueError: no JSON, or no list or object.
    """
    given = {name: _json(name, text, list) for name, text in zip(metric.features, inputs, strict=True)}
    return metric.compute(**given, **_json("settings", settings or "{}", dict))


def _json(name: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({error}).") from error
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected a JSON {'list' if kind is list else 'object'}, got {text[:40]!r}.")
    return value


def interface(metric: Any, folder: str | Path, example: Sequence[Any], settings: dict[str, Any]) -> Any:
    """The page, for `launch`.

    Args:
        folder: of the metric's card.
        example: a value for each of the metric's features.
        settings: other arguments of `compute`, as they stand in their field at first.
    """
    import gradio

    fields = [gradio.Textbox(label=f"{name}: a JSON list, an item a recording", lines=4) for name in metric.features]
    other = gradio.Textbox(label="settings: a JSON object", value=json.dumps(settings))
    return gradio.Interface(
        fn=lambda *texts: compute_from_text(metric, texts[:-1], texts[-1]),
        inputs=[*fields, other],
        outputs=gradio.JSON(label="numbers"),
        examples=[[*(json.dumps(value) for value in example), json.dumps(settings)]],
        title=metric.name,
        description=metric.info.description,
        article=card_text(folder),
    )
