"""Settings are YAML with `key=value` changes: 3e-4 is a number, and what is unknown or out of bounds is refused."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from hf_moshi_ttt import extras
from hf_moshi_ttt.checkpoints import adapters
from hf_moshi_ttt.settings import read_settings
from hf_moshi_ttt.training.arguments import (
    LORA_PARTS,
    TRAINABLE,
    DataArguments,
    ModelArguments,
    parse_settings,
)


def read(folder: Path, text: str, *changes: str) -> dict[str, Any]:
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    return read_settings(folder / "run.yaml", list(changes))


def parsed(tmp_path: Path, **settings: Any) -> Any:
    own = {"preset": "tiny", "train_codes": "codes", "output_dir": str(tmp_path), "use_cpu": True, "report_to": "none"}
    return parse_settings({**own, **settings})


def test_settings_go_to_the_three_arguments(tmp_path: Path) -> None:
    settings = {"config": {"ttt": None}, "duration_sec": 20.0, "order": "lanes", "learning_rate": 3e-4, "max_steps": 9}
    model, data, training = parsed(tmp_path, **settings, ttt_lr_multiplier=2.0, stop_at_step=4)
    assert model == ModelArguments(preset="tiny", config={"ttt": None})
    assert data == DataArguments(train_codes="codes", duration_sec=20.0, order="lanes")
    assert (training.learning_rate, training.max_steps, training.output_dir) == (3e-4, 9, str(tmp_path))
    assert (training.ttt_lr_multiplier, training.gate_lr_multiplier, training.stop_at_step) == (2.0, 100.0, 4)


def test_defaults_show_bad_losses_and_progress_and_keep_columns(tmp_path: Path) -> None:
    model, data, training = parsed(tmp_path)
    assert (model.model_name_or_path, model.config) == (None, {})
    assert (data.duration_sec, data.order) == (60.0, "shuffled")
    assert (training.ttt_lr_multiplier, training.gate_lr_multiplier, training.stop_at_step) == (10.0, 100.0, None)
    assert not training.logging_nan_inf_filter
    assert not training.remove_unused_columns
    assert not training.disable_tqdm


def test_two_runs_do_not_share_their_configuration(tmp_path: Path) -> None:
    parsed(tmp_path)[0].config["hidden_size"] = 1
    assert parsed(tmp_path)[0].config == {}


def test_unknown_settings_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    known = r"Known: .*, config, duration_sec, .*, trainable, .*, and transformers' TrainingArguments\."
    with pytest.raises(ValueError, match=rf"Unknown settings \['lerning_rate', 'ttt'\]\. {known}"):
        parsed(tmp_path, lerning_rate=1, ttt={})


def test_the_training_data_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"train_codes is missing: the folder of encoded recordings \(hf-moshi-ttt prep"
    ):
        parse_settings({"preset": "tiny", "output_dir": str(tmp_path)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": None}, "give exactly one of model_name_or_path, preset, and resume_from .*; none is given"),
        ({"model_name_or_path": "a"}, "resets; model_name_or_path='a' and preset='tiny'"),
        ({"order": "random"}, "order='random', but order must be 'shuffled' or 'lanes'"),
        ({"duration_sec": 0}, "duration_sec=0, but it must be above 0 seconds"),
        ({"duration_sec": -1.5}, r"duration_sec=-1\.5, but it must be above 0 seconds"),
        ({"duration_sec": float("nan")}, "duration_sec=nan, but it must be above 0 seconds"),
        ({"overlap_sec": -1}, r"overlap_sec=-1, but it must be 0 or more and below duration_sec=60\.0"),
        ({"overlap_sec": 5, "duration_sec": 5}, "overlap_sec=5, but it must be 0 or more and below duration_sec=5"),
        ({"lr_scheduler_type": "wavy"}, "wavy is not a valid SchedulerType"),
        ({"trainable": "frozen"}, r"trainable='frozen', but it must be one of lora, ttt, lora\+ttt, full"),
        ({"lora_rank": 0}, "lora_rank=0, but it must be at least 1"),
        ({"lora_scaling": 0}, "lora_scaling=0, but it must be above 0"),
        ({"lora_parts": ["ffn", "nose"]}, "lora_parts=.*'nose'.*some of attention, ffn, depth, text_head"),
        ({"fp16": True}, "fp16=True is not supported: Moshi's weights need the range of bfloat16: use bf16"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True is not supported: lanes and exact resumption need"),
        ({"ignore_data_skip": True}, "ignore_data_skip=True is not supported: a run continues at its place in"),
        ({"dataloader_in_order": False}, "dataloader_in_order=False is not supported: the order of batches is that"),
        ({"label_names": ["labels"]}, "label_names=.*'labels'.* is not supported: the labels are those of the coll"),
        (
            {"accelerator_config": {"split_batches": True}},
            "split_batches=True is not supported: .* count per_device_train_batch_size=8 rows for each process. Divide",
        ),
        ({"reset_step": True}, "reset_step=true, but there is nothing to reset: it belongs to resume_from"),
        ({"resume_from": "a", "reset_step": True}, "reset_step=true with reset_optimizer=false: moments belong to"),
        ({"resume_from": "a", "resume_from_checkpoint": "b"}, "both name a run to start from: give one of them"),
        ({"duration_sec": []}, r"duration_sec=\[\], but it must be a number or at least one stage"),
        (
            {"duration_sec": [{"duration_sec": 5}, {"duration_sec": 9}]},
            "stage 1 is {'duration_sec': 5}, but a stage is",
        ),
        ({"duration_sec": [{"duration_sec": 5, "steps": 1.5}, {"duration_sec": 9}]}, "stage 1 .*steps: whole number"),
        ({"duration_sec": [{"duration_sec": 5, "steps": 3}]}, "stage 1 .*the last one without steps"),
        (
            {"duration_sec": [{"duration_sec": 5, "steps": 3}, {"duration_sec": 9}]},
            "stages, which need max_steps",
        ),
    ],
    ids=str,
)
def test_values_out_of_bounds_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(tmp_path, **settings)


def test_a_token_is_used_and_not_written(tmp_path: Path) -> None:
    """training_args.bin, which push_to_hub publishes, is a pickle of the arguments."""
    args = parsed(tmp_path, hub_token="hf_secret")[2]
    assert args.hub_token == "hf_secret" and b"hf_secret" not in pickle.dumps(args)
    assert pickle.loads(pickle.dumps(args)).learning_rate == args.learning_rate


def test_a_checkpoint_replaces_the_preset_on_the_command_line(tmp_path: Path) -> None:
    settings = read(tmp_path, "preset: tiny\ntrain_codes: c\n", "preset=null", "model_name_or_path=runs/a")
    model, _, _ = parse_settings({**settings, "output_dir": str(tmp_path), "use_cpu": True})
    assert (model.preset, model.model_name_or_path) == (None, "runs/a")


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("configs/*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_parses(path: Path, tmp_path: Path) -> None:
    model, data, training = parse_settings(read_settings(path, [f"output_dir={tmp_path}", "use_cpu=true"]))
    assert data.train_codes.startswith("runs/")
    assert training.learning_rate > 0
    assert training.reset_step or (model.preset is None) != (model.model_name_or_path is None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("config=5", "config"),
        ("train_codes=5.5", "train_codes=5.5 is a number, but it must be a text: write it in quotes"),
        ("duration_sec=abc", "duration_sec"),
        ("learning_rate=abc", "learning_rate='abc', but it must be a number"),
        ("ttt_lr_multiplier=-1", "ttt_lr_multiplier=-1, but it must be a number, 0 or more"),
        ("stop_at_step=0", "stop_at_step=0, but it must be at least 1"),
        ("inner_lr_warmup_steps=0.5", "inner_lr_warmup_steps=0.5, but it must be a whole number"),
        ("state_reset_probability=1.5", "state_reset_probability=1.5, but it must lie in 0..1"),
    ],
)
def test_wrong_types_and_bounds_are_refused(tmp_path: Path, change: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text("preset: tiny\ntrain_codes: codes\noutput_dir: out\nuse_cpu: true\n")
    with pytest.raises(Exception, match=message):
        parse_settings(read_settings(tmp_path / "run.yaml", [change]))


def test_the_choices_are_those_of_the_adapters() -> None:
    assert {"frozen", *TRAINABLE} == set(adapters.PRESETS) and set(LORA_PARTS) == set(adapters.LORA_PARTS)


def test_ways_to_start_that_go_together(tmp_path: Path) -> None:
    both = {"reset_optimizer": True, "reset_step": True}
    _, _, args = parsed(tmp_path, preset=None, resume_from="a", resume_from_checkpoint=True, **both)
    assert (args.resume_from, args.resume_from_checkpoint, args.reset_step) == ("a", True, True)
    with pytest.raises(ValueError, match="preset='tiny' and resume_from='a'"):
        parsed(tmp_path, resume_from="a", **both)
    assert parsed(tmp_path, resume_from="a", reset_optimizer=True)[2].reset_optimizer


def test_stages_of_lengths(tmp_path: Path) -> None:
    stages = [{"duration_sec": 5, "steps": 3}, {"duration_sec": 9.5}]
    assert parsed(tmp_path, duration_sec=stages, max_steps=7)[1].stages() == [(5, 3), (9.5, None)]
    assert parsed(tmp_path, duration_sec=4)[1].stages() == [(4, None)]


def test_a_tracker_that_is_not_installed_is_named_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match=r"trackio is not installed, .*pip install 'hf_moshi_ttt\[trackers\]'"):
        parsed(tmp_path, report_to="trackio")
