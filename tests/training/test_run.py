"""A run from its settings: what is trained moves, what is frozen does not; three ways to start; every configuration."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from hf_moshi_ttt.checkpoints.adapters import matched_lora_rank
from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.data.codes import load_codes
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.settings import read_settings
from hf_moshi_ttt.training.run import prepare, run
from hf_moshi_ttt.training.run_files import read_metrics

from ..conftest import save_codes
from ..fixtures.hub_stand_in import running_hub
from ..fixtures.training_runs import outcome, tiny_settings

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TTT = {"mini_batch_size": 4, "ttt_mlp_expansion_factor": 2}


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codes(tmp_path_factory.mktemp("data") / "codes", [100, 61, 44, 37, 11])


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codes(tmp_path_factory.mktemp("data") / "talks", [60, 50, 30], rows=17)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Moshi without TTT, in bfloat16, as a base that has a name."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", ttt=None)).bfloat16().save_pretrained(folder)
    return folder


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("trainable", ["lora", "ttt", "lora+ttt", "full"])
def test_after_two_steps_every_trainable_moved_and_every_frozen_did_not(
    tmp_path: Path, codes: Path, talks: Path, base: Path, trainable: str
) -> None:
    """Without weight decay; the first step wakes what starts at zero (LoRA's B, o_proj)."""
    settings = tiny_settings(
        tmp_path, codes, preset=None, model_name_or_path=str(base), trainable=trainable, config={"ttt": TTT},
        train_codes=str(talks), max_steps=2, weight_decay=0.0, lr_scheduler_type="constant", optim="adamw_torch",
    )  # fmt: skip
    trainer, _ = prepare(settings)
    before = weights_of(trainer.model)
    trainer.train()
    after = weights_of(trainer.model)
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == trained
    assert {trainer.model.get_parameter(name).dtype for name in trained} == {torch.float32}
    kinds = {"lora": any("lora_" in n for n in trained), "ttt": any(".ttt." in n for n in trained)}
    assert kinds == {"lora": "lora" in trainable, "ttt": "ttt" in trainable or trainable == "full"}
    assert (len(trained) == len(before)) == (trainable == "full")


def test_adapters_go_on_exactly(tmp_path: Path, codes: Path, base: Path) -> None:
    mode: dict[str, Any] = dict(
        preset=None, model_name_or_path=str(base), trainable="lora+ttt", lora_rank=2, order="lanes",
        config={"ttt": {**TTT, "persistent_states": True}},
    )  # fmt: skip
    run(tiny_settings(tmp_path / "whole", codes, **mode))
    settings = tiny_settings(tmp_path / "run", codes, **mode)
    run({**settings, "stop_at_step": 3})
    run(settings)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    path = tmp_path / "run" / "checkpoint-8" / "adapter_model.safetensors"
    model = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert model.config.ttt.persistent_states and len(load_file(path)) > 30
    with pytest.raises(ValueError, match="lora_rank is 2, asked for 3. A run continues only"):
        prepare({**settings, "lora_rank": 3})
    weights = load_file(path)
    weights["x" + max(weights)[1:]] = weights.pop(max(weights))
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"checkpoint-8: 1 weights of the model are missing \(.*lora.*\), 1 have no"):
        run({**settings, "max_steps": 9})


def test_held_out_codes_that_are_trained_on_are_told(
    tmp_path: Path, codes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows, provenance = load_codes(str(codes))
    numbered = rows.with_format(None).select_columns(["path", "codes", "frames"]).to_list()
    for name, first in (("train", 0), ("eval", 1), ("others", 7)):
        own = [{**row, "source_sha256": f"{first + n}", "start_sec": 0.0} for n, row in enumerate(numbered)]
        Dataset.from_list(own).save_to_disk(tmp_path / name)
        provenance.save(tmp_path / name)
    for name, is_told in (("others", False), ("eval", True)):
        settings = tiny_settings(tmp_path / "run", tmp_path / "train", eval_codes=str(tmp_path / name))
        prepare({**settings, "eval_strategy": "steps", "eval_steps": 5})
        assert ("recordings in common. The numbers say nothing about new recordings" in caplog.text) == is_told


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, codes: Path) -> Path:
    """A run of six steps, with its checkpoints."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run(tiny_settings(folder, codes, max_steps=6, order="lanes", config={"ttt": {"persistent_states": True}}))
    return folder


def going_on(folder: Path, codes: Path, **changes: Any) -> dict[str, Any]:
    own = {"max_steps": 6, "order": "lanes", "config": {"ttt": {"persistent_states": True}}}
    return tiny_settings(folder, codes, **{**own, "resume_from_checkpoint": None, **changes})


def test_continue_takes_everything_over(tmp_path: Path, codes: Path, pretrained: Path) -> None:
    """Into another folder, from the checkpoint in the middle; more steps are allowed and said."""
    run(going_on(tmp_path / "on", codes, resume_from=str(pretrained / "checkpoint-4")))
    losses = outcome(pretrained)[0]
    assert outcome(tmp_path / "on") == (losses, outcome(pretrained)[1]) and len(losses) == 6
    longer = going_on(tmp_path / "longer", codes, resume_from=str(pretrained), lr_scheduler_type="cosine", max_steps=8)
    run(longer)
    assert list(outcome(tmp_path / "longer")[0]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {step: loss for step, loss in outcome(tmp_path / "longer")[0].items() if step <= 6} == losses
    run({**longer, "resume_from_checkpoint": True, "max_steps": 10})
    assert list(outcome(tmp_path / "longer")[0])[-1] == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 2e-3}, r"learning_rate is 0.001, asked for 0.002\. A run continues only"),
        ({"weight_decay": 0.1, "seed": 1}, "seed is 42, asked for 1; weight_decay is 0.0, asked for 0.1"),
        ({"duration_sec": 0.8}, "duration_sec is 0.88, asked for 0.8"),
        (
            {"per_device_train_batch_size": 1},
            "rows_per_step is 2, asked for 1; per_device_train_batch_size is 2",
        ),
        (
            {"config": {"sliding_window": 9, "ttt": {"persistent_states": True}}},
            "config.sliding_window is 16, asked for 9",
        ),
        ({"config": {"ttt": {"persistent_states": True, "base_lr": 0.5}}}, "config.ttt.base_lr is 1.0, asked for 0.5"),
        (
            {"config": {"ttt": {"persistent_states": True, "ttt_mlp_layers": 3}}},
            "config.ttt.ttt_mlp_layers is 2",
        ),
        ({"trainable": "ttt"}, "trainable is 'full', asked for 'ttt'"),
    ],
    ids=str,
)
def test_what_would_not_be_the_same_run_is_refused(
    tmp_path: Path, codes: Path, pretrained: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(going_on(tmp_path, codes, resume_from=str(pretrained), **changes))


def test_other_data_is_refused(tmp_path: Path, talks: Path, pretrained: Path) -> None:
    with pytest.raises(ValueError, match="data_fingerprint is '[0-9a-f]{64}', asked for '[0-9a-f]{64}'"):
        prepare(going_on(tmp_path, talks, resume_from=str(pretrained)))


def test_reset_optimizer_alone_keeps_the_step(tmp_path: Path, codes: Path, pretrained: Path) -> None:
    source = str(pretrained / "checkpoint-4")
    settings = going_on(
        tmp_path / "run", codes, resume_from=source, reset_optimizer=True, learning_rate=3e-3, logging_steps=1
    )
    trainer, start = prepare(settings)
    trainer.train(resume_from_checkpoint=str(start.checkpoint))
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert [e["learning_rate/base"] for e in entries[4:]] == pytest.approx([3 * e for e in _rates(pretrained)[4:]])
    kept = outcome(pretrained)[0]
    assert entries[4]["loss"] == kept[5] and entries[5]["loss"] != kept[6]
    assert {int(value["step"]) for value in trainer.optimizer.state.values()} == {2}


def _rates(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["learning_rate/base"] for entry in history if "loss" in entry]


def test_transfer_takes_weights_alone(tmp_path: Path, talks: Path, pretrained: Path) -> None:
    """Other data, another schedule and TTT options that may change; a second start continues the new run."""
    both = {"reset_optimizer": True, "reset_step": True, "preset": None, "config": {}}
    changes = {"config": {"ttt": {"persistent_states": False, "base_lr": 0.5}}, "order": "shuffled", "max_steps": 4}
    settings = going_on(tmp_path / "run", talks, resume_from=str(pretrained), **{**both, **changes})
    trainer, start = prepare(settings)
    assert start.checkpoint is None and trainer.model.config.ttt.base_lr == 0.5
    saved = load_file(pretrained / "model.safetensors")
    assert all(torch.equal(weight, saved[name]) for name, weight in trainer.model.state_dict().items())
    run({**settings, "stop_at_step": 3})
    again, start = prepare({**settings, "resume_from_checkpoint": True})
    assert start.checkpoint.name == "checkpoint-3"
    assert min(outcome(tmp_path / "run" / "checkpoint-3")[0]) == 1


def test_a_ttt_mismatch_is_reported_as_for_checkpoints(tmp_path: Path, codes: Path, pretrained: Path) -> None:
    settings = going_on(
        tmp_path, codes, preset=None, resume_from=str(pretrained), reset_optimizer=True, reset_step=True,
        config={"ttt": {"ttt_mlp_layers": 3}},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"ttt_mlp_layers is 2, asked for 3. These change shapes .* Free to change"):
        prepare(settings)


def test_where_a_run_may_start(tmp_path: Path, codes: Path, pretrained: Path) -> None:
    with pytest.raises(ValueError, match=r"of another run \(learning_rate is 0.001, asked for 0.002\). Continue it"):
        prepare(going_on(pretrained, codes, learning_rate=2e-3))
    with pytest.raises(ValueError, match="nowhere: no such checkpoint"):
        prepare(going_on(tmp_path, codes, resume_from=str(tmp_path / "nowhere")))
    trainer, start = prepare(going_on(tmp_path, codes, resume_from_checkpoint=True))
    assert start.checkpoint is None
    both = {"reset_optimizer": True, "reset_step": True, "preset": None}
    shards = tmp_path / "shards"
    (shards / "checkpoint-1").mkdir(parents=True)
    (shards / "checkpoint-1" / "files.json").write_text("{}")
    with pytest.raises(ValueError, match="checkpoint-1: holds weights in shards, which only FSDP continues"):
        prepare(going_on(tmp_path, codes, resume_from=str(shards), **both))


def test_the_same_settings_again_find_a_finished_run(tmp_path: Path, codes: Path) -> None:
    settings = going_on(tmp_path / "run", codes, max_steps=2)
    run(settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert run(settings) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before
    both = {"preset": None, "reset_optimizer": True, "reset_step": True}
    with pytest.raises(
        ValueError, match=r"\(preset is 'tiny', asked for None; reset_optimizer is False, asked for True"
    ):
        run({**settings, **both, "resume_from": str(tmp_path / "run")})


def tiny_file(folder: Path, settings: dict[str, Any], codes: Path, base: Path, source: Path) -> str:
    """What makes a configuration of the repository tiny, as one YAML file on top of it."""
    tiny = dict(
        train_codes=str(codes), output_dir=str(folder / "out"), duration_sec=0.88, use_cpu=True, lora_rank=2,
        per_device_train_batch_size=2, max_steps=4, save_steps=2, logging_steps=1, warmup_steps=1, disable_tqdm=True,
    )  # fmt: skip
    if settings.get("model_name_or_path") is not None:
        tiny["model_name_or_path"] = str(base)
    if settings.get("resume_from") is not None:
        tiny |= {"resume_from": str(source), "max_steps": 6}
    if settings.get("preset") is not None:
        tiny |= {"preset": "tiny", "config": {"codebook_size": 32, "text_vocab_size": 64}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    return str(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def librilight(tmp_path_factory: pytest.TempPathFactory, codes: Path, base: Path) -> Path:
    """librilight_pretrain.yaml, run tiny."""
    folder, path = tmp_path_factory.mktemp("librilight"), str(CONFIGS / "librilight_pretrain.yaml")
    assert run(read_settings([path, tiny_file(folder, read_settings(path, []), codes, base, folder)], [])) == 0
    return folder / "out"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_trains(
    tmp_path: Path, codes: Path, talks: Path, base: Path, librilight: Path, path: Path
) -> None:
    settings = read_settings(path, [])
    if path.stem == "demo_finetune":
        base = _from_preset(tmp_path / "base")
    data = talks if "dailytalk" in settings["train_codes"] else codes
    own = tiny_file(tmp_path, settings, data, base, librilight)
    assert run(read_settings([str(path), own], [])) == 0
    losses, _ = outcome(tmp_path / "out")
    assert list(losses)[-1] >= 4 and all(torch.isfinite(torch.tensor(list(losses.values()))))
    MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "out")


def _from_preset(folder: Path) -> Path:
    MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny")).save_pretrained(folder)
    return folder


def test_the_baseline_has_as_many_trained_parameters() -> None:
    with_ttt, without = (read_settings(CONFIGS / f"{name}.yaml", []) for name in ("librilight_pretrain", "no_ttt"))
    with torch.device("meta"):
        config = MoshiTTTConfig.from_preset("moshi-7b", **with_ttt["config"])
        model = MoshiTTTForConditionalGeneration(config)
    assert without["lora_rank"] == matched_lora_rank(model, rank=with_ttt["lora_rank"]).rank
    assert without["config"]["ttt"] is None and without["trainable"] == "lora"


@pytest.mark.parametrize("path", sorted((CONFIGS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_knows_its_configurations(path: Path) -> None:
    processes = {"single_gpu": 1, "fsdp2_4gpu": 4, "fsdp2_8gpu": 8, "hsdp_2nodes": 16}[path.stem]
    config = load_config_from_file(str(path))
    assert (config.mixed_precision, config.num_processes) == ("bf16", processes)
    assert config.fsdp_config.get("fsdp_version") == (None if processes == 1 else 2)


def test_two_machines_replicate_what_each_shares_out() -> None:
    """What accelerate's launcher hands to the processes of the second machine."""
    options = ["--config_file", "configs/accelerate/hsdp_2nodes.yaml", "--machine_rank", "1"]
    address = ["--main_process_ip", "first", "--main_process_port", "29500"]
    arguments = launch_command_parser().parse_args([*options, *address, "scripts/train.py"])
    environment = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    sizes = (environment[f"PARALLELISM_CONFIG_DP_{name}_SIZE"] for name in ("REPLICATE", "SHARD"))
    assert list(sizes) == ["2", "8"] and environment["FSDP_STATE_DICT_TYPE"] == "SHARDED_STATE_DICT"


def test_the_script_trains_and_tells_every_tracker(tmp_path: Path, codes: Path) -> None:
    """Under accelerate's launcher, with files and changes, to a model in output_dir; without a network."""
    own = tiny_file(tmp_path, {"preset": "tiny"}, codes, tmp_path, tmp_path)
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--config_file", "configs/accelerate/single_gpu.yaml", "--cpu", "--mixed_precision", "no"]
    changes = ["max_steps=2", "report_to=[tensorboard, trackio, wandb]", "project=speech"]
    folders = {"WANDB_DIR": "", "TRACKIO_DIR": "trackio", "TENSORBOARD_LOGGING_DIR": "tensorboard"}
    env = {**os.environ, "WANDB_MODE": "offline", **{key: str(tmp_path / name) for key, name in folders.items()}}
    command = [*launcher, "scripts/train.py", "configs/debug.yaml", own, *changes]
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    logged = [entry["audio_loss"] for entry in read_metrics(tmp_path / "out") if "audio_loss" in entry]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("train/audio_loss")] == pytest.approx(logged)
    with closing(sqlite3.connect(tmp_path / "trackio" / "speech.db")) as database:
        told = [json.loads(row) for (row,) in database.execute("select metrics from metrics order by step")]
    assert [entry["train/audio_loss"] for entry in told if "train/audio_loss" in entry] == logged
    (offline,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert len(logged) == 2 and all(repr(value).encode() in offline.read_bytes() for value in logged)


def test_several_gpus_in_one_process_are_refused(tmp_path: Path, codes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_moshi_ttt.training.arguments.MoshiTTTTrainingArguments.n_gpu", 8)
    with pytest.raises(ValueError, match="8 GPUs are visible, but one process was started. Use accelerate"):
        prepare(tiny_settings(tmp_path, codes))


_PUBLISH = """
import json, sys
from hf_moshi_ttt.training.run import dry_run, run
settings = json.loads(sys.argv[1])
dry_run({**settings, "hub_model_id": "user/dry"}, print)
run(settings)
"""


@pytest.mark.parametrize("strategy", ["end", "every_save"])
def test_the_final_model_is_published_whatever_was_of_its_checkpoints(
    tmp_path: Path, codes: Path, strategy: str
) -> None:
    """The best of the run, which was not saved last; a dry run makes no repository."""
    settings = tiny_settings(
        tmp_path / "run", codes, push_to_hub=True, hub_model_id="user/run", hub_strategy=strategy, report_to="none",
        eval_codes=str(codes), eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, learning_rate=0.3,
        max_steps=4, max_grad_norm=0.0,
    )  # fmt: skip
    with running_hub() as hub:
        command = [sys.executable, "-c", _PUBLISH, json.dumps(settings)]
        done = subprocess.run(command, env=hub.environment(tmp_path), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert set(hub.repos) == {"user/run"}
        published = hub.repos["user/run"]["model.safetensors"]
    assert published == (tmp_path / "run" / "model.safetensors").read_bytes()
    assert published == (tmp_path / "run" / "checkpoint-2" / "model.safetensors").read_bytes()
