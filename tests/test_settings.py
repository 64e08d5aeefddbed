"""YAML and `key=value` words: read as written, and given the types that their keys declare."""

from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.evaluation.long_context_settings import LongContextSettings
from hf_moshi_ttt.settings import read_settings, split_words, typed_values
from hf_moshi_ttt.training.arguments import DataArguments, MoshiTTTTrainingArguments


def read(folder: Path, text: str, *changes: str) -> dict[str, Any]:
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return read_settings(folder / "run.yaml", list(changes))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4), ("1E5", 1e5), ("-2e+3", -2000.0), ("1.e3", 1000.0), (".5e1", 5.0), ("2.0e-3", 0.002),
        ("0.1", 0.1), ("100", 100), ("true", True), ("null", None), ("", None), ("[0, 3]", [0, 3]),
        ("no", "no"), ("Off", "Off"), ("0123", "0123"), ("2026-11-27", "2026-11-27"), ("1:30", "1:30"),
        ("{a: 3e-4}", {"a": 3e-4}), ("lanes", "lanes"), ('"3e-4"', "3e-4"), ("e5", "e5"), ("3e", "3e"),
    ],
)  # fmt: skip
def test_values_mean_the_same_in_the_file_and_on_the_command_line(tmp_path: Path, text: str, value: object) -> None:
    in_file = read(tmp_path, f"key: {text}")["key"]
    changed = read(tmp_path, "key: 7", f"key={text}")["key"]
    assert (in_file, type(in_file)) == (changed, type(changed)) == (value, type(value))


def test_changes_reach_into_sections_and_leave_the_rest(tmp_path: Path) -> None:
    text = "preset: tiny\nconfig:\n  hidden_size: 64\n  ttt:\n    layers: all\n"
    changes = ["config.ttt.layers=[1]", "config.ttt.step=mean", "max_steps=5", "new.section.key=a=b", "max_steps=6"]
    assert read(tmp_path, text, *changes) == {
        "preset": "tiny",
        "config": {"hidden_size": 64, "ttt": {"layers": [1], "step": "mean"}},
        "max_steps": 6,
        "new": {"section": {"key": "a=b"}},
    }
    assert read(tmp_path, text, "config.ttt=null")["config"] == {"hidden_size": 64, "ttt": None}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: no such configuration file"):
        read_settings(tmp_path / "none.yaml", [])


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "preset"])
def test_a_file_without_settings_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"run\.yaml: expected `key: value` lines, got "):
        read(tmp_path, text)


@pytest.mark.parametrize("change", ["max_steps", "=5", "--max_steps", ""])
def test_a_change_that_is_none_is_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(ValueError, match=f"'{change}': expected key=value"):
        read(tmp_path, "preset: tiny", change)


def test_a_change_within_a_plain_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'preset\.a\.b=1': preset is 'tiny', not a section"):
        read(tmp_path, "preset: tiny", "preset.a.b=1")


def test_invalid_yaml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="run.yaml: not valid YAML"):
        read_settings(tmp_path / "run.yaml", [])
    (tmp_path / "run.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match=r"b=\[1: not valid YAML"):
        read_settings(tmp_path / "run.yaml", ["b=[1"])


def test_an_empty_section_takes_changes(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("config:")
    assert read_settings(tmp_path / "run.yaml", ["config.ttt=null"]) == {"config": {"ttt": None}}


def test_files_lie_on_top_of_each_other(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "seed: 1\nmax_steps: 5\nconfig: {sliding_window: 9, ttt: {base_lr: 1, layers: all}}"
    )
    (tmp_path / "run.yaml").write_text("extends: base.yaml\nmax_steps: 6\nconfig: {ttt: {layers: [2]}}")
    (tmp_path / "small.yaml").write_text("duration_sec: 3\nconfig: {sliding_window: 4}")
    files = [str(tmp_path / name) for name in ("run.yaml", "small.yaml")]
    assert read_settings(files, ["config.ttt.base_lr=2"]) == {
        "seed": 1, "max_steps": 6, "duration_sec": 3,
        "config": {"sliding_window": 4, "ttt": {"base_lr": 2, "layers": [2]}},
    }  # fmt: skip
    (tmp_path / "base.yaml").write_text("extends: run.yaml")
    with pytest.raises(ValueError, match="run.yaml: extends itself"):
        read_settings(files, [])
    (tmp_path / "run.yaml").write_text("extends: gone.yaml")
    with pytest.raises(ValueError, match="gone.yaml: no such configuration file"):
        read_settings(files, [])


@pytest.mark.parametrize(
    ("kind", "key", "text", "value"),
    [
        (MoshiTTTTrainingArguments, "save_strategy", "no", "no"),
        (MoshiTTTTrainingArguments, "eval_strategy", "false", "no"),
        (MoshiTTTTrainingArguments, "save_strategy", "off", "off"),  # transformers refuses it by its choices
        (MoshiTTTTrainingArguments, "bf16", "no", False),
        (MoshiTTTTrainingArguments, "use_cpu", "On", True),
        (MoshiTTTTrainingArguments, "resume_from_checkpoint", "yes", True),
        (MoshiTTTTrainingArguments, "resume_from_checkpoint", "20261127", "20261127"),
        (MoshiTTTTrainingArguments, "max_steps", "1e3", 1000),
        (MoshiTTTTrainingArguments, "output_dir", "20261127", "20261127"),
        (MoshiTTTTrainingArguments, "run_name", "on", "on"),
        (MoshiTTTTrainingArguments, "report_to", "[no, 5]", ["no", "5"]),
        (MoshiTTTTrainingArguments, "learning_rate", "1", 1),
        (MoshiTTTConfig, "ttt", "{output_bias: no, mini_batch_size: 1e1, layers: [1.0]}",
         {"output_bias": False, "mini_batch_size": 10, "layers": [1]}),
        (MoshiTTTConfig, "text_tokenizer", "off", "off"),
        (LongContextSettings, "positions_frames", "[1e3, 8e3]", [1000, 8000]),
        (DataArguments, "duration_sec", "[{duration_sec: 5, steps: 3}]", [{"duration_sec": 5, "steps": 3}]),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_has_the_type_that_its_key_declares(
    tmp_path: Path, kind: Any, key: str, text: str, value: object
) -> None:
    found = typed_values(kind, read(tmp_path, f"{key}: {text}"))[key]
    assert (found, type(found)) == (value, type(value))
    assert typed_values(kind, {key: value})[key] == value


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (MoshiTTTTrainingArguments, "bf16=maybe", "bf16='maybe', but it must be true or false"),
        (MoshiTTTTrainingArguments, "bf16=1", "bf16=1, but it must be true or false"),
        (MoshiTTTTrainingArguments, "max_steps=1.5", "max_steps=1.5, but it must be a whole number"),
        (MoshiTTTTrainingArguments, "max_steps=many", "max_steps='many', but it must be a whole number"),
        (MoshiTTTTrainingArguments, "max_steps=yes", "max_steps='yes', but it must be a whole number"),
        (MoshiTTTTrainingArguments, "max_steps=true", "max_steps=true, but it must be a number"),
        (MoshiTTTTrainingArguments, "run_name=true", "run_name=true, but it must be a text: write it in quotes"),
        (MoshiTTTTrainingArguments, "run_name=1.50", "run_name=1.5 is a number, but it must be a text: write it in qu"),
        (MoshiTTTConfig, "ttt.mini_batch_size=1.5", "ttt.mini_batch_size=1.5, but it must be a whole number"),
        (LongContextSettings, "positions_frames=[0.5]", "positions_frames=0.5, but it must be a whole number"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(tmp_path: Path, kind: Any, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        typed_values(kind, read(tmp_path, "seed: 1", change))


def test_a_tilde_is_the_home_folder_in_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("max_steps: 5")
    (tmp_path / "run.yaml").write_text("extends: ~/base.yaml\noutput_dir: ~/out\nresume_from: ~/a\nrun_name: ~b")
    values = read_settings("~/run.yaml", [])
    assert typed_values(MoshiTTTTrainingArguments, values) == {
        "max_steps": 5, "output_dir": f"{tmp_path}/out", "resume_from": f"{tmp_path}/a", "run_name": "~b",
    }  # fmt: skip
    mixture = {"train_codes": {"~/a": 0.5, "b": 0.5}, "eval_codes": "~/c"}
    expected = {"train_codes": {f"{tmp_path}/a": 0.5, "b": 0.5}, "eval_codes": f"{tmp_path}/c"}
    assert typed_values(DataArguments, mixture) == expected
    assert typed_values(MoshiTTTConfig, {"codec": "~/codec"}) == {"codec": f"{tmp_path}/codec"}
    assert split_words(["~/run.yaml", "a=~/b"]) == (["~/run.yaml"], ["a=~/b"])


def test_a_file_whose_name_holds_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lr=1e-3.yaml"
    path.write_text("seed: 1")
    files, changes = split_words([str(path), f"output_dir={tmp_path}/lr=1e-3, seed=0 #1", "a=b"])
    assert (files, changes[1:]) == ([str(path)], ["a=b"])
    assert read_settings(files, changes)["output_dir"] == f"{tmp_path}/lr=1e-3, seed=0 #1"
    assert read_settings(files, ["a=b: c", "d={e: 1} # note"]) == {"seed": 1, "a": "b: c", "d": {"e": 1}}
