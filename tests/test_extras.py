"""What is optional is in an extra of the package, and said with the command that gets it."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from hf_moshi_ttt import extras
from hf_moshi_ttt.extras import EXTRAS, MOSHI_VERSION, how_to_get, require_extras

SETUP = configparser.ConfigParser()
SETUP.read(Path(__file__).parents[1] / "setup.cfg")


@pytest.mark.parametrize("package", EXTRAS)
def test_the_extra_that_is_named_holds_the_package(package: str) -> None:
    command = EXTRAS[package].command
    if named := re.fullmatch(r"pip install 'hf_moshi_ttt\[([\w-]+)\]'", command):
        listed = SETUP["options.extras_require"][named[1]].strip().splitlines()
        assert package in {Requirement(line).name for line in listed}
    else:
        assert command.startswith("pip install ") and package in command


def test_the_version_of_moshi_is_that_of_make_setup() -> None:
    assert f"--no-deps moshi=={MOSHI_VERSION}\n" in (Path(__file__).parents[1] / "Makefile").read_text()


def test_what_is_said_of_a_missing_module() -> None:
    assert how_to_get("hibari.voice") == (
        "hibari-tts is not installed, which is for demo: narrated books. Get it: pip install 'hf_moshi_ttt[demo]'"
    )
    assert "pip install --no-deps moshi==0.2.13 (without --no-deps it would" in str(how_to_get("moshi.models"))
    assert how_to_get("torch") is None and how_to_get(None) is None


def test_packages_are_required_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None if module == "wandb" else object())
    require_extras(["tensorboard", "none", "mlflow"])
    with pytest.raises(ValueError, match=r"wandb is not installed, which is for report_to=wandb\. Get it: pip install"):
        require_extras(["tensorboard", "wandb"])
