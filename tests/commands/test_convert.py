"""A checkpoint becomes one of another layout, and back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_moshi_ttt.checkpoints.adapters import make_trainable, save_adapter
from hf_moshi_ttt.commands.console import main
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration


def test_to_kyutai_and_back(make_model: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(ttt=None)
    model.save_pretrained(tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "kyutai"), "--to", "kyutai-old"]) == 0
    assert capsys.readouterr().out.endswith(f"{model.num_parameters():,} parameters, torch.float32, for kyutai-old\n")
    assert main(["convert", str(tmp_path / "kyutai"), str(tmp_path / "back"), "--to", "moshi_ttt"]) == 0
    back = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


def test_an_adapter_is_merged(make_model: Callable[..., Any], tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "base")
    model = make_trainable(MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "base"), "lora+ttt")
    for parameter in model.parameters():
        parameter.data += 0.05 * parameter.requires_grad
    save_adapter(model, tmp_path / "adapter")
    assert main(["convert", str(tmp_path / "adapter"), str(tmp_path / "whole"), "--to", "moshi_ttt"]) == 0
    whole = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "whole").state_dict()
    expected = model.merge_and_unload().state_dict()
    assert all(torch.equal(whole[name], value) for name, value in expected.items())
