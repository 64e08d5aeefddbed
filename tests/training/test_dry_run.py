"""What a dry run reports is true, and only the sound is left of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from hf_moshi_ttt.checkpoints.adapters import make_trainable
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training import dry_run as dry
from hf_moshi_ttt.training.arguments import MoshiTTTTrainingArguments
from hf_moshi_ttt.training.dry_run import MeasuredSteps, Memory, describe_time, static_memory
from hf_moshi_ttt.training.run import dry_run

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]


@pytest.fixture
def codes(tmp_path: Path, codec_path: str) -> Path:
    folder = save_codes(tmp_path / "codes", [100, 61, 44, 37, 12])
    provenance = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps({**provenance, "codec": codec_path}))
    return folder


def told(settings: dict[str, Any]) -> tuple[int, dict[str, list[str]]]:
    lines: dict[str, list[str]] = {}
    code = dry_run(settings, lambda title, line: lines.setdefault(title, []).append(line))
    return code, lines


def test_a_run_is_told_before_it_is_made(tmp_path: Path, codes: Path) -> None:
    mode = {"order": "lanes", "config": {"ttt": {"persistent_states": True}}, "gradient_accumulation_steps": 2}
    code, lines = told(tiny_settings(tmp_path / "run", codes, weight_decay=0.1, max_steps=300, **mode))
    assert code == 0 and lines["start"] == ["step 0"]
    total = sum(p.numel() for p in MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny")).parameters())
    assert lines["model"][0] == f"{total:,} parameters, {total:,} trained (100.00%), 0 frozen"
    assert "gate_no_decay: 32 at rate 0.1, weight decay 0" in lines["model"]
    assert lines["data"] == [
        "24 segments of up to 0.88 s (2 frames left out); 4 rows a step, 6 steps an epoch, 44 frames and 748 codes a "
        "step"
    ]
    parts = ("weights", "gradients", "moments", "lanes", "activations")
    assert all(f"{name} 0.00" in lines["memory"][1] for name in parts) and "activations" not in lines["memory"][0]
    assert lines["time"][0].startswith("steps of ") and "300 steps in 0 h" in lines["time"][0]
    sound, rate = soundfile.read(tmp_path / "run" / "dry_run" / "first_batch.wav")
    assert rate == 24_000 and sound.shape == (11 * 1920, 2) and abs(sound).max() > 0
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dry_run"]


def test_what_does_not_fit_is_told_without_a_step(tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry, "_available", lambda device: (1000, "a small device"))
    code, lines = told(tiny_settings(tmp_path / "run", codes))
    assert code == 1 and "free on a small device  TOO MUCH: use more GPUs with FSDP" in lines["memory"][0]
    assert "time" not in lines and not (tmp_path / "run").exists()


def test_a_codec_that_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    codes = save_codes(tmp_path / "codes", [60, 50])
    code, lines = told(tiny_settings(tmp_path / "run", codes))
    assert code == 0 and lines["sound"][0].startswith("not decoded: codec 'tests/random' cannot be loaded (")


def test_memory_is_that_of_the_tensors(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_trainable(make_model(ttt={"persistent_states": True}).bfloat16(), "lora+ttt")
    args = dry_args(tmp_path)
    memory = static_memory(model, args, shards=2, with_window=True)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = model.init_state(2)
    assert memory.parts == {
        "weights": sum(p.nbytes for p in model.parameters()) // 2, "gradients": 2 * trained, "moments": 4 * trained,
        "lanes": state.num_bytes(),
    }  # fmt: skip
    assert memory.available > 2**28
    args.optim = "sgd"
    assert static_memory(model, args, shards=1, with_window=False).parts["moments"] == 0


def dry_args(tmp_path: Path) -> Any:
    return MoshiTTTTrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2)


def test_kept_activations_are_counted_once_and_without_weights() -> None:
    linear, x, measured = torch.nn.Linear(10, 10, bias=False), torch.randn(7, 10), MeasuredSteps()
    with measured.watched(list(linear.parameters())):
        (linear(x).exp() * linear(x)).sum()
    # x once, the result of exp, the second product; not the weight
    assert measured.activations == 3 * 7 * 10 * 4
    with measured.watched(list(linear.parameters())):
        linear(torch.randn(50, 10)[:7])
    assert measured.activations == (3 * 7 + 50) * 10 * 4  # a part keeps the whole


def test_time_and_verdict() -> None:
    measured = MeasuredSteps([9.0, 2.0, 4.0])
    assert describe_time(measured, 600, 1300) == "steps of 9.00, 2.00, 4.00 s: 200 frames/s, 1,300 steps in 1 h 5 min"
    memory = Memory({"weights": 3 * 2**30, "moments": 2**30}, 5 * 2**30, "a GPU")
    assert memory.describe() == "weights 3.00 + moments 1.00 = 4.00 GiB of 5.00 free on a GPU" and memory.fits
    assert not Memory(memory.parts, 2**30, "a GPU").fits
