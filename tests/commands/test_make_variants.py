"""The verb writes one file of the recordings below a folder."""

from pathlib import Path

import pytest
import soundfile

from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.data.variants import load_variants

from ..conftest import chirps_S


def test_a_folder_becomes_a_file(codec_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("b", "a", "c")):
        soundfile.write(tmp_path / f"{name}.wav", chirps_S(3.0, seed), 24_000)
    output = tmp_path / "variants.safetensors"
    words = ["make-variants", str(tmp_path), "--codec", codec_path, "--output", str(output)]
    assert main([*words, "--forms", "same,phase_0.5+noise_20db", "--most", "2", "--seed", "3"]) == 0
    _, origin = load_variants(output)
    assert [Path(path).name for path in origin.paths] == ["a.wav", "b.wav"]
    assert origin.forms == ["same", "phase_0.5+noise_20db"] and origin.seed == 3
    assert "2 recordings, 0.1 minutes, in the forms same, phase_0.5+noise_20db" in capsys.readouterr().out
