"""The card has the results of the model that is published, and of no other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.checkpoints.adapters import make_trainable, save_adapter
from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.commands.push import results_of
from hf_moshi_ttt.evaluation.results_file import write_results
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

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


def test_an_adapter_is_pushed_whole(
    make_model: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model().save_pretrained(tmp_path / "base")
    model = make_trainable(MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "base"), "lora+ttt")
    save_adapter(model, tmp_path / "adapter")
    assert main(["push", str(tmp_path / "adapter"), "me/model", "--trainable-only"]) == 1
    assert "holds an adapter, which is pushed merged into its base. Leave it out" in capsys.readouterr().err

    class Commit:
        commit_url = "nowhere"

    def keep(model: Any, repo_id: str, **options: Any) -> type[Commit]:
        model.save_pretrained(tmp_path / "pushed")
        return Commit

    monkeypatch.setattr(MoshiTTTForConditionalGeneration, "push_to_hub", keep)
    assert main(["push", str(tmp_path / "adapter"), "me/model"]) == 0
    pushed = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "pushed")
    assert set(pushed.state_dict()) == set(model.merge_and_unload().state_dict())
