"""The verb's three sources write what they found; wrong options are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from hf_moshi_ttt.commands.console import main

from ..conftest import save_codes
from ..fixtures.planted_conversations import bursts, planted, write_bench, write_conversations


@pytest.fixture
def model_path(make_model: Callable[..., Any], quiet_codec_path: str, tmp_path: Path) -> str:
    make_model(codec=quiet_codec_path).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_models_are_compared_on_conversations(
    model_path: str, quiet_codec_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = write_conversations(tmp_path / "codes", quiet_codec_path, [20, 20])
    words = ["turn-taking", "--codes", str(codes), "--model", f"mine={model_path}", "--compare", f"base={model_path}"]
    output, part = tmp_path / "out", ["--length-sec", "1.28"]
    assert (
        main([*words, "--output", str(output), "--device", "cpu", "--pad-bias", "0,1", "--conversations", "1", *part])
        == 0
    )
    found = json.loads((output / "turn_taking.json").read_text())
    assert found["human"]["numbers"]["duration_min"] == 1.28 / 60
    assert (found["conversations"], list(found["models"])) == (["0.wav"], ["mine", "base"])
    assert [point["text_pad_bias"] for point in found["sweep"]] == [0.0, 1.0]
    assert found["models"]["mine"]["numbers"] == found["models"]["base"]["numbers"]  # one model, one seed
    assert {path.name for path in output.iterdir()} == {"turn_taking.json", "conversation.png", "pad_bias.png"}
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["human", "mine", "base"] and table[1].startswith("pause_takeover_rate ")


def test_a_bench_is_run_and_scored(model_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = write_bench(tmp_path / "bench", 0.8)
    words = ["turn-taking", "--bench", str(tmp_path / "bench"), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--model", model_path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["written"], found["found"], found["unusable_inputs"]) == (5, 0, {})
    assert set(found["subsets"]) == set(folders) and all(part["items"] == 1 for part in found["subsets"].values())
    assert main(words) == 0  # scores alone
    again = json.loads((tmp_path / "out" / "turn_taking.json").read_text())
    assert again["subsets"] == found["subsets"] and "written" not in again


def test_files_are_measured_and_bad_ones_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = planted(0, ["answered"])
    soundfile.write(tmp_path / "talk.wav", np.stack(conversation.samples()[::-1], axis=1), 24_000)
    soundfile.write(tmp_path / "mono.wav", bursts(1, [(0, 1)]), 24_000)
    files = [str(tmp_path / name) for name in ("talk.wav", "mono.wav")]
    assert main(["turn-taking", "--wav", *files, "--output", str(tmp_path / "out"), "--device", "cpu"]) == 0
    found = json.loads((tmp_path / "out" / "turn_taking.json").read_text())
    assert found["numbers"]["response_rate"] == 1.0 and list(found["unusable"]) == files[1:]
    assert "1 of 2 files cannot be used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--codes", "c"], "--codes needs --model: the conversations are driven by it"),
        (["--bench", "b", "--compare", "base=x"], "--compare needs --codes and --model: others are compared with"),
        (["--bench", "b", "--pad-bias", "1,2"], "--pad-bias 1,2: a sweep needs --codes; --bench takes one bias"),
        (["--bench", "b", "--vad", "loud"], "--vad loud, but it must be one of energy, silero"),
        ([], "one of the arguments --codes --bench --wav is required"),
    ],
)
def test_wrong_options_are_usage_errors(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = main(["turn-taking", *words, "--output", str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--pad-bias", "a"], 2, "--pad-bias a: numbers with commas between them are expected"),
        (["--compare", "model=x"], 2, "--model and --compare need names of their own, other than human"),
        ([], 1, "have [8] rows of codes, but conversations have 17"),
    ],
)
def test_wrong_values_are_named(
    more: list[str], code: int, message: str, model_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = save_codes(tmp_path / "mono", [20])
    words = ["turn-taking", "--codes", str(codes), "--model", model_path, "--output", str(tmp_path / "out"), *more]
    assert main(words) == code and message in capsys.readouterr().err
