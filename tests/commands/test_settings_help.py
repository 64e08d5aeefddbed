"""The settings in the files of `--help` are those of the code."""

from dataclasses import dataclass, field

import pytest
import transformers

from hf_moshi_ttt.commands.doctor import TESTED
from hf_moshi_ttt.commands.settings_help import FILES, describe_settings, describe_verb, settings_help, settings_names
from hf_moshi_ttt.training.arguments import SETTINGS


@pytest.mark.parametrize("verb", FILES)
def test_the_file_is_what_the_code_says(verb: str) -> None:
    """`python -m hf_moshi_ttt.commands.settings_help` writes it; transformers' part is that of the tested version."""
    if verb == "train" and transformers.__version__ != TESTED["transformers"]:
        pytest.skip(f"written with transformers {TESTED['transformers']}")
    assert settings_help(verb) == describe_verb(verb)


def test_every_setting_of_training_has_its_default() -> None:
    text = settings_help("train")
    assert [name for name in settings_names(SETTINGS) if f"\n  {name} (" not in text] == []
    assert "\n  train_codes (required): Folder of" in text and "\n  gate_lr_multiplier (100.0): Learning" in text
    assert "positions_frames ([8000, 16000, 24000])" in settings_help("evaluate")


def test_a_setting_is_described_by_its_default_and_help() -> None:
    @dataclass
    class Sizes:
        """How large."""

        width: int = field(metadata={"help": "In\n  cells."})
        names: list[str] = field(default_factory=list, metadata={"help": "Of it."})
        depth: int = field(default=3, init=False)

    assert describe_settings([Sizes]) == "\nHow large.\n\n  width (required): In cells.\n  names ([]): Of it.\n"
