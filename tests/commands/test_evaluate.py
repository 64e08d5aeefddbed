"""From a folder of audio to the report; wrong settings end with code 2. Several processes: test_recording_losses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.data.codes import data_fingerprint, load_codes
from hf_moshi_ttt.evaluation.results_file import read_results

from ..conftest import chirps_S, save_codes


def test_a_checkpoint_and_a_folder_of_recordings(
    make_model: Callable[..., Any], codec_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "audio").mkdir()
    for seed in range(2):
        soundfile.write(tmp_path / "audio" / f"{seed}.wav", chirps_S(4.0, seed), 24_000)
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    words = ["evaluate", "--model", f"mine={tmp_path / 'model'}", "--output", str(tmp_path / "out"), "--device", "cpu"]
    settings = ["librilight_evaluation_mode=chapters", "bin_frames=5", "positions_frames=[20]", "check_frames=8"]
    assert main([*words, f"librilight_audio_dir={tmp_path / 'audio'}", *settings]) == 0
    assert "librilight_loss_20 " in capsys.readouterr().out and (tmp_path / "out" / "report.html").is_file()
    assert read_results(tmp_path / "out" / "results.json")["models"]["mine"]["librilight_samples"] == 2


def test_recordings_of_the_training_are_told(
    make_model: Callable[..., Any], codec_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [save_codes(tmp_path / name, lengths) for name, lengths in (("trained", [60, 50]), ("other", [70, 50]))]
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    run = {"data": {"fingerprint": data_fingerprint(*load_codes(str(codes[0])))}}
    (tmp_path / "model" / "run.json").write_text(json.dumps(run))
    words = ["evaluate", "--model", f"mine={tmp_path / 'model'}", "--output", str(tmp_path / "out"), "--device", "cpu"]
    settings = ["librilight_evaluation_mode=chapters", "bin_frames=5", "positions_frames=[20]", "check_frames=0"]
    for folder, is_told in zip(codes, (True, False), strict=True):
        assert main([*words, f"librilight_codes={folder}", *settings]) == 0
        found = read_results(tmp_path / "out" / "results.json")["models"]["mine"]["findings"]
        problems = [finding for finding in found if "trained on" in finding["what"]]
        assert bool(problems) == is_told == ("WARNING: These are the recordings that" in capsys.readouterr().out)
        assert all("held out" in problem["remedy"] for problem in problems)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("bin_frame=5", "Did you mean bin_frames?"),
        ("mode=fast", "mode='fast', but it must be block or stream"),
        ("librilight_streaming=1", "librilight_streaming was removed"),
    ],
)
def test_wrong_settings(setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--model", "m", "--output", "o", "librilight_codes=c", setting]
    assert main(words) == 2
    assert message in capsys.readouterr().err
