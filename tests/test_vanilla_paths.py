"""The ecosystem's own ways of training and measuring work without our trainer, our corpora and our commands."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, load_dataset
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoProcessor, Trainer, TrainingArguments

import hf_moshi_ttt
from hf_moshi_ttt.data.audio_feature import SeekingAudio
from hf_moshi_ttt.data.collator import MoshiTTTCollator
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration

from .conftest import chirps_S

MakeModel = Callable[..., MoshiTTTForConditionalGeneration]


@pytest.fixture(scope="module")
def rows() -> Dataset:
    """Codes `[8, 12]` as any dataset may hold them."""
    codes = np.random.default_rng(0).integers(32, size=(8, 8, 12))
    return Dataset.from_dict({"codes": codes.tolist()})


def trainer_of(model: Any, rows: Dataset, folder: Path, steps: int) -> Trainer:
    args = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=2, learning_rate=1e-3, save_steps=2,
        lr_scheduler_type="constant", logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    collator = MoshiTTTCollator(model.config, only_model_inputs=True)
    return Trainer(model=model, args=args, train_dataset=rows, data_collator=collator)


def test_transformers_trainer_trains_and_resumes(make_model: MakeModel, rows: Dataset, tmp_path: Path) -> None:
    whole = trainer_of(make_model(), rows, tmp_path / "whole", 4)
    whole.train()
    trainer_of(make_model(), rows, tmp_path / "run", 2).train()
    resumed = trainer_of(make_model(), rows, tmp_path / "run", 4)
    resumed.train(resume_from_checkpoint=True)
    losses = [[entry["loss"] for entry in one.state.log_history if "loss" in entry] for one in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    weights = [one.model.state_dict() for one in (whole, resumed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_loop_under_accelerate(make_model: MakeModel, rows: Dataset, tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True)
    model = make_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    collator = MoshiTTTCollator(model.config, only_model_inputs=True)
    loader = DataLoader(rows.with_format("numpy"), batch_size=8, collate_fn=collator)
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = []
    for _ in range(4):
        for batch in loader:
            output = prepared(**batch)
            accelerator.backward(output.loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(output.loss.item())
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.01
    accelerator.unwrap_model(prepared).save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(again) is MoshiTTTForConditionalGeneration
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_peft_by_hand_in_transformers_trainer(make_model: MakeModel, rows: Dataset, tmp_path: Path) -> None:
    base = make_model()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["qkv_proj", "o_proj"], exclude_modules=r".*depth.*"))
    trainer_of(model, rows, tmp_path, 2).train()
    changed = {
        name
        for name, value in model.get_base_model().state_dict().items()
        if "lora_" not in name and not torch.equal(value, before[name.replace(".base_layer", "")])
    }
    assert changed == set() and (tmp_path / "checkpoint-2" / "adapter_model.safetensors").is_file()
    grown = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert grown and all(value.abs().sum() > 0 for value in grown)


def test_datasets_processor_and_collator_without_our_corpora(
    make_model: MakeModel, tmp_path: Path, codec_path: str
) -> None:
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.flac", chirps_S(1.0, ord(name)), 24_000)
    (tmp_path / "list.json").write_text("\n".join(json.dumps({"audio": str(tmp_path / f"{n}.flac")}) for n in "ab"))
    found = load_dataset("json", data_files=str(tmp_path / "list.json"), split="train")
    audio = found.cast(Features({"audio": SeekingAudio()}))  # datasets.Audio() does the same with torchcodec
    make_model(codec=codec_path).save_pretrained(tmp_path / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "model")

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        sound = row["audio"]
        return {"codes": processor(sound["array"], sampling_rate=sound["sampling_rate"]).codes[0].numpy()}

    encoded = audio.map(encode, remove_columns="audio")
    batch = MoshiTTTCollator(processor.config, only_model_inputs=True)(list(encoded))
    assert batch["codes"].shape == (2, 17, 13)
    assert make_model(codec=codec_path)(**batch).loss.item() > 0


def test_evaluate_combine(evaluate_cache: str) -> None:
    name, cache = hf_moshi_ttt.METRIC_LIBRILIGHT, evaluate_cache
    metrics = [evaluate.load(name, cache_dir=cache, experiment_id=number) for number in "ab"]
    combined = evaluate.combine(dict(zip(("first", "second"), metrics, strict=True)))
    found = combined.compute(losses=[[1.0, 2.0, 3.0]], window=0, bin_frames=1, positions_frames=[2])
    assert found["first_librilight_loss_2"] == found["second_librilight_loss_2"] == 3.0
