"""Settings are read before anything runs; wrong ones end with code 2 and the nearest right name."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate import PartialState

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.data.codes import PROVENANCE_FILE, Provenance

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings


@pytest.fixture
def config(tmp_path: Path) -> str:
    settings = tiny_settings(tmp_path / "run", save_codes(tmp_path / "codes", [60, 50]))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return str(tmp_path / "run.yaml")


def name_codec(codes: Path, codec: str) -> None:
    """Names a codec that is on this machine: a dry run writes the sound of its first batch."""
    replace(Provenance.load(codes / PROVENANCE_FILE), codec=codec).save(codes)


def test_a_run_and_its_continuation(config: str, tmp_path: Path) -> None:
    assert main(["train", config, "max_steps=2"]) == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize("changes", [["max_steps=1", "save_strategy=no"], ["--dry-run"]])
def test_what_the_processes_share_is_given_up_at_the_end(
    config: str, changes: list[str], codec_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_codec(tmp_path / "codes", codec_path)
    given_up: list[bool] = []
    monkeypatch.setattr(PartialState, "destroy_process_group", lambda _: given_up.append(True))
    assert main(["train", config, *changes]) == 0 and given_up == [True]


def test_a_dry_run_tells_what_would_happen(
    config: str, codec_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name_codec(tmp_path / "codes", codec_path)
    assert main(["train", config, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "model   " in said and "\ntime    steps of" in said and "not decoded" not in said
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["max_step=2"], r"Unknown settings ['max_step']."),
        (["max_step=2"], "Did you mean max_steps?"),
        (["order=random"], "order='random', but order must be 'shuffled' or 'lanes'"),
        (["debg"], "debg: no such configuration file. Did you mean debug?"),
        (["nowhere.yaml"], "nowhere.yaml: no such configuration file."),
    ],
)
def test_wrong_settings(config: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("hf-moshi-ttt train: error: ") and message in said and said.count("\n") == 1


def test_a_configuration_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "max_steps=2"]) == 2
    assert (
        "no configuration was given: a YAML file, or one of dailytalk_from_librilight, debug, "
        in capsys.readouterr().err
    )


def test_configurations_are_listed_and_printed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list"]) == 0
    assert "librilight_pretrain" in capsys.readouterr().out.split()
    assert main(["train", "librilight_continue", "max_steps=7", "--print"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["max_steps"], settings["lora_rank"], settings["resume_from"]) == (
        7,
        64,
        "runs/librilight_pretrain",
    )
