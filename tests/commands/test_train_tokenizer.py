"""A text tokenizer is trained on a file of text."""

from pathlib import Path

import pytest

from hf_moshi_ttt.codec.text_stream import load_text_tokenizer
from hf_moshi_ttt.commands.console import main


def test_it_writes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("a b c d\n" * 5)
    output = str(tmp_path / "t.model")
    assert main(["train-tokenizer", str(tmp_path / "text.txt"), "--output", output, "--vocab-size", "265"]) == 0
    assert capsys.readouterr().out == f"265 pieces in {output}\n"
    assert load_text_tokenizer(output).vocab_size() == 265
