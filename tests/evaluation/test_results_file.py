"""results.json is what its schema says, in both directions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from hf_moshi_ttt.evaluation.results_file import SCHEMA_PATH, made_with, read_results, validate, write_results

from ..fixtures.results import example_results


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_results(example_results(), tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == example_results()
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_the_schema_is_one_and_says_what_every_key_means() -> None:
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == 2
    numbers = schema["$defs"]["numbers"]["patternProperties"]
    assert all(
        "description" in value for key, value in numbers.items() if not key.endswith(("interval$", "recordings$"))
    )


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        for key in keys[:-1]:
            results = results[key]
        del results[keys[-1]]

    return change


def with_value(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(results: Any) -> None:
        for key in keys[:-1]:
            results = results[key]
        results[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(1, "schema"), "schema=1, but this version reads 2: evaluate again"),
        (without("codec"), r"\$: 'codec' is a required property"),
        (with_value(0, "models", "ttt", "librilight_samples"), r"librilight_samples: 0 is less than the minimum of 1"),
        (with_value({"value": 1.0}, "models", "ttt", "librilight_slope"), "is not of type 'number'"),
        (with_value(1.0, "models", "ttt", "librilight_speed"), "librilight_speed"),
        (with_value([1.0], "models", "ttt", "librilight_slope_interval"), "too short"),
        (with_value("other", "model"), r"model='other' is not among \['plain', 'ttt', 'window_only'\]"),
        (with_value(float("nan"), "models", "ttt", "librilight_slope"), r"\$.models.ttt.librilight_slope is nan"),
        (with_value(float("inf"), "models", "ttt", "curve", 0, "value"), r"curve.0.value is inf"),
        (without("comparisons", "plain", "verdict"), "'verdict' is a required property"),
        (without("models", "ttt", "run"), "'run' is a required property"),
    ],
)
def test_other_results_are_neither_written_nor_read(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    results = example_results()
    change(results)
    with pytest.raises(ValueError, match=message):
        write_results(results, tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=message):
        read_results(tmp_path / "results.json")


def test_what_is_no_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.json: no results. Make them with hf-moshi-ttt evaluate"):
        read_results(tmp_path / "none.json")
    for text, message in (("{", "not JSON"), ("[1]", "expected an object, got list")):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_results(tmp_path / "x.json")
    with pytest.raises(ValueError, match="schema=None"):
        validate({})


def test_versions_and_the_device_are_told() -> None:
    assert made_with(torch.device("cpu"))["device"] == "cpu"
    assert made_with(torch.device("cpu"))["torch"] == torch.__version__
