"""A codec is fitted on a folder of audio and loads as transformers loads its own."""

from pathlib import Path

import pytest
import soundfile
import torch
from transformers import AutoModel

from hf_moshi_ttt.codec.log_mel_codec import LogMelCodecConfig
from hf_moshi_ttt.commands.console import main, parser_of

from ..conftest import chirps_S


def test_it_writes_a_loadable_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        soundfile.write(tmp_path / f"{seed}.flac", chirps_S(30.0, seed), 24_000)
    words = ["fit-codec", str(tmp_path), "--output", str(tmp_path / "codec"), "--max-minutes", "1"]
    assert main([*words, "--num-quantizers", "2", "--codebook-size", "32"]) == 0
    assert "fitted on 2 recordings" in capsys.readouterr().out
    model = AutoModel.from_pretrained(tmp_path / "codec")
    assert model.encode(torch.zeros(1, 1, 3840)).audio_codes.shape == (1, 2, 2)


def test_one_recording_is_not_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.flac", chirps_S(1.0, 0), 24_000)
    assert main(["fit-codec", str(tmp_path), "--output", str(tmp_path / "codec")]) == 1
    assert "holds 1 audio files; one to fit, one to hold back" in capsys.readouterr().err


def test_the_sizes_are_those_of_the_configuration() -> None:
    arguments, config = parser_of("fit-codec").parse_args(["a", "--output", "b"]), LogMelCodecConfig()
    sizes = (arguments.num_quantizers, arguments.codebook_size)
    assert sizes == (config.num_quantizers, config.codebook_size)
