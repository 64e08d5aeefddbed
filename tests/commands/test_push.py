"""The card has the results of the model that is published, and of no other."""

from pathlib import Path

import pytest

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.push import results_of
from hf_moshi_ttt.evaluation.results_file import write_results

from ..fixtures.results import example_results


def test_results_are_those_of_the_model(tmp_path: Path) -> None:
    results = example_results()
    first = next(iter(results["models"].values()))
    write_results(results, tmp_path / "results.json")
    assert results_of(tmp_path, Path(first["path"]))["path"] == first["path"]
    with pytest.raises(ValueError, match=rf"other was not evaluated; .*{first['path']}"):
        results_of(tmp_path, Path("other"))


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tmp_path / "nowhere"), "me/model"]) == 1
    assert "nowhere" in capsys.readouterr().err
