"""The page of a metric takes JSON and settings and gives numbers; a stand-in takes gradio's part."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_moshi_ttt.evaluation.metric_widget import card_text, compute_from_text, interface

METRIC: Any = SimpleNamespace(
    features={"a": None, "b": None},
    name="sum",
    info=SimpleNamespace(description="adds"),
    compute=lambda a, b, scale=1: {"sum": scale * (sum(a) + sum(b))},
)


def test_fields_become_arguments() -> None:
    assert compute_from_text(METRIC, ["[1, 2]", "[3]"], '{"scale": 2}') == {"sum": 12}
    assert compute_from_text(METRIC, ["[1, 2]", "[3]"], "") == {"sum": 6}


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        (["[1", "[3]"], "", r"a: not JSON \("),
        (["[1]", "3"], "", "b: expected a JSON list, got '3'"),
        (["[1]", "[3]"], "[]", "settings: expected a JSON object, got "),
    ],
)
def test_other_texts_are_refused(texts: list[str], settings: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_from_text(METRIC, texts, settings)


def test_the_page_computes_its_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("---\ntitle: x\n---\n# Card\n\n---\nrest\n")
    parts = {name: lambda **options: SimpleNamespace(**options) for name in ("Textbox", "JSON", "Interface")}
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(**parts))
    page = interface(METRIC, tmp_path, [[1], [2, 3]], {"scale": 3})
    assert page.fn(*page.examples[0]) == {"sum": 18}
    assert [field.label.partition(":")[0] for field in page.inputs] == ["a", "b", "settings"]
    assert (page.title, page.article) == ("sum", "# Card\n\n---\nrest\n") == ("sum", card_text(tmp_path))
