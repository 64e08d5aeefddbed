"""Configurations are found by name, and own files come first."""

from pathlib import Path

import pytest

import hf_moshi_ttt
from hf_moshi_ttt.shipped_files import configuration_file, configuration_names, shipped_folder

ROOT = Path(__file__).parents[1]


def test_names_are_those_of_the_files() -> None:
    assert configuration_names() == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert configuration_names("evaluation") == ["librilight"]
    assert Path(configuration_file("librilight", "evaluation")).parent == shipped_folder("configs") / "evaluation"


def test_other_words_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert configuration_file("max_steps=2") == "max_steps=2" and configuration_file("my.yaml") == "my.yaml"
    assert configuration_file("debug").endswith("debug.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "debug").touch()
    assert configuration_file("debug") == "debug"


def test_the_metric_is_a_folder_that_evaluate_loads() -> None:
    assert (Path(hf_moshi_ttt.METRIC_LIBRILIGHT) / "librilight_long_context.py").is_file()
