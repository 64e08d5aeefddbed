"""Going on with what an earlier run left: nothing that is missing is replaced without a word."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hf_moshi_ttt.configuration_moshi_ttt import MoshiTTTConfig
from hf_moshi_ttt.modeling_moshi_ttt import MoshiTTTForConditionalGeneration
from hf_moshi_ttt.training.checkpoint_folders import CheckpointError
from hf_moshi_ttt.training.run import prepare, run

from ..conftest import save_codes
from ..fixtures.training_runs import tiny_settings


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_codes(tmp_path_factory.mktemp("data") / "codes", [100, 61, 44, 37, 11])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    MoshiTTTForConditionalGeneration(MoshiTTTConfig.from_preset("tiny", ttt=None)).save_pretrained(folder)
    return folder


def going_on(folder: Path, codes: Path, **changes: Any) -> dict[str, Any]:
    return tiny_settings(folder, codes, **{"max_steps": 6, "resume_from_checkpoint": None, **changes})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, codes: Path) -> Path:
    """A run of six steps, with its checkpoints."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run(going_on(folder, codes))
    return folder


def rates(folder: Path) -> list[float]:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["learning_rate/base"] for entry in history if "loss" in entry]


def test_an_adapter_is_trained_further_with_the_settings_it_has(tmp_path: Path, codes: Path, base: Path) -> None:
    own: dict[str, Any] = {"trainable": "lora", "lora_rank": 12, "lora_scaling": 0.1, "max_steps": 2}
    run(tiny_settings(tmp_path / "own", codes, preset=None, model_name_or_path=str(base), save_strategy="no", **own))
    both: dict[str, Any] = {"preset": None, "reset_optimizer": True, "reset_step": True}
    further = tiny_settings(tmp_path / "run", codes, resume_from=str(tmp_path / "own"), **both, **own)
    prepare(further)
    with pytest.raises(ValueError, match="own: an adapter with lora_scaling=0.1.*, but 0.2 is asked for"):
        prepare({**further, "lora_scaling": 0.2})
    with pytest.raises(ValueError, match="own: an adapter with lora_parts=.*, but .'ffn'. is asked for"):
        prepare({**further, "lora_parts": ["ffn"]})


@pytest.mark.parametrize(("kind", "part"), [("optimizer.pt", "the optimizer"), ("scheduler.pt", "the schedule"),
                                            ("rng_state.pth", "the random numbers")])  # fmt: skip
def test_a_checkpoint_that_lacks_a_part_is_refused(
    tmp_path: Path, codes: Path, pretrained: Path, kind: str, part: str
) -> None:
    """As after save_only_model=true; with fresh moments the others are not needed."""
    checkpoint = without_parts(pretrained / "checkpoint-4", tmp_path / "checkpoint-4", [kind])
    settings = going_on(tmp_path / "run", codes, resume_from=str(checkpoint))
    with pytest.raises(ValueError, match=rf"it lacks {part} \(.*\). It was saved with save_only_model=true. Take"):
        prepare(settings)
    prepare({**settings, "reset_optimizer": True})


def without_parts(source: Path, target: Path, names: list[str]) -> Path:
    """A copy of a checkpoint, whole, that was saved without some of its parts."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*names))
    sizes = json.loads((target / "files.json").read_text())
    (target / "files.json").write_text(json.dumps({name: sizes[name] for name in sizes if name not in names}))
    return target


def test_fresh_moments_need_no_saved_schedule(tmp_path: Path, codes: Path, pretrained: Path) -> None:
    names = ["optimizer.pt", "scheduler.pt", "rng_state.pth"]
    checkpoint = without_parts(pretrained / "checkpoint-4", tmp_path / "checkpoint-4", names)
    settings = going_on(tmp_path / "run", codes, resume_from=str(checkpoint), reset_optimizer=True)
    run(settings)
    assert rates(tmp_path / "run") == rates(pretrained)
    with pytest.raises(ValueError, match=r"it lacks the step \(trainer_state.json\). It was not written by this train"):
        bare = without_parts(checkpoint, tmp_path / "bare" / "checkpoint-4", ["trainer_state.json"])
        prepare({**settings, "resume_from": str(bare), "output_dir": str(tmp_path / "other")})


def test_the_first_rate_after_going_on_is_that_of_the_longer_schedule(
    tmp_path: Path, codes: Path, pretrained: Path
) -> None:
    whole, on = going_on(tmp_path / "whole", codes, max_steps=9), going_on(tmp_path / "on", codes, max_steps=9)
    for settings in ({**whole, "save_strategy": "no"}, {**on, "resume_from": str(pretrained / "checkpoint-4")}):
        run(settings)
    assert rates(tmp_path / "on")[4:] == rates(tmp_path / "whole")[4:]
    assert rates(tmp_path / "on")[:4] == rates(pretrained)[:4]


def test_the_best_model_may_lie_in_the_folder_of_an_earlier_part_of_the_run(tmp_path: Path, codes: Path) -> None:
    """Of which only the first checkpoint counts here, as losses that fall are taken for worse."""
    best = dict(
        eval_codes=str(codes), eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, save_total_limit=None,
        metric_for_best_model="audio_loss", greater_is_better=True, max_steps=6,
    )  # fmt: skip
    run(tiny_settings(tmp_path / "a", codes, stop_at_step=4, **best))
    first = load_file(tmp_path / "a" / "checkpoint-2" / "model.safetensors")
    on = tiny_settings(tmp_path / "b", codes, resume_from=str(tmp_path / "a" / "checkpoint-4"), **best)
    run(on)
    assert outcome_weights(tmp_path / "b").keys() == first.keys()
    assert all(torch.equal(weight, first[name]) for name, weight in outcome_weights(tmp_path / "b").items())
    state = json.loads((tmp_path / "b" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / "a" / "checkpoint-2")
    (tmp_path / "a").rename(tmp_path / "moved")
    moved = {**on, "output_dir": str(tmp_path / "c"), "resume_from": str(tmp_path / "moved" / "checkpoint-4")}
    trainer, start = prepare(moved)
    assert trainer._find_best_checkpoint(start.checkpoint) == str(tmp_path / "moved" / "checkpoint-2")
    shutil.rmtree(tmp_path / "moved" / "checkpoint-2")
    with pytest.raises(ValueError, match="best checkpoint, .*a/checkpoint-2, is neither there nor beside it. Put it b"):
        run(moved)
    trainer.state.best_model_checkpoint = str(tmp_path / "moved" / "checkpoint-2")
    with pytest.raises(CheckpointError, match="checkpoint-2: the best checkpoint cannot be loaded, it has no files.js"):
        trainer._load_best_model()


def outcome_weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def encoded_with(source: Path, target: Path, mark: str | None) -> Path:
    """The same codes as if another codec and tokenizer of that mark had made them."""
    shutil.copytree(source, target)
    values = json.loads((target / "provenance.json").read_text())
    sha256 = None if mark is None else mark * 64
    own = {"codec": f"{mark}/codec", "codec_sha256": sha256, "text_tokenizer": f"{mark}.model"}
    (target / "provenance.json").write_text(json.dumps({**values, **own, "tokenizer_sha256": sha256}))
    return target


def test_a_model_is_not_trained_on_with_another_codec(
    tmp_path: Path, codes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, unknown = (encoded_with(codes, tmp_path / f"codes_{mark}", mark) for mark in ("a", "b", None))
    run(tiny_settings(tmp_path / "run", first, max_steps=1, save_strategy="no"))
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["codec"], saved["codec_sha256"]) == ("a/codec", "a" * 64)
    assert (saved["text_tokenizer"], saved["text_tokenizer_sha256"]) == ("a.model", "a" * 64)
    assert "is not known" not in caplog.text
    both: dict[str, Any] = {"preset": None, "reset_optimizer": True, "reset_step": True}
    further = going_on(tmp_path / "on", second, resume_from=str(tmp_path / "run"), **both)
    with pytest.raises(ValueError, match=r"codes_b: its codec is b/codec .* set config.codec_sha256=null and"):
        prepare(further)
    config = prepare({**further, "train_codes": str(unknown)})[0].model.config
    assert (config.codec, config.codec_sha256) == ("a/codec", "a" * 64)
    assert "codes_None does not record its hash" in caplog.text
    taught = {**further, "config": {"codec_sha256": None, "text_tokenizer_sha256": None}}
    config = prepare(taught)[0].model.config
    assert (config.codec_sha256, config.text_tokenizer) == ("b" * 64, "b.model")
    held_out = {"eval_codes": str(second), "eval_strategy": "steps", "eval_steps": 1, "train_codes": str(first)}
    with pytest.raises(ValueError, match="codes_a and .*codes_b do not go together: codec_sha256 is"):
        prepare({**further, **held_out})


def test_held_out_text_has_the_tokenizer_of_the_training(tmp_path: Path, codes: Path) -> None:
    first, second = (encoded_with(codes, tmp_path / f"codes_{mark}", mark) for mark in ("a", "b"))
    values = json.loads((second / "provenance.json").read_text())
    (second / "provenance.json").write_text(json.dumps({**values, "codec_sha256": "a" * 64}))
    settings = tiny_settings(tmp_path / "run", first, eval_codes=str(second), eval_strategy="steps", eval_steps=1)
    with pytest.raises(ValueError, match="codes_b: its text tokenizer is b.model"):
        prepare(settings)


def test_codec_and_tokenizer_are_found_again_from_anywhere(
    tmp_path: Path, codes: Path, codec_path: str, tokenizer_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the codes name them relative to where they were made."""
    shutil.copytree(codec_path, tmp_path / "codec")
    shutil.copy(tokenizer_path, tmp_path / "text.model")
    shutil.copytree(codes, tmp_path / "codes")
    values = json.loads((codes / "provenance.json").read_text())
    relative = {"codec": "./codec", "text_tokenizer": "text.model"}
    (tmp_path / "codes" / "provenance.json").write_text(json.dumps({**values, **relative}))
    monkeypatch.chdir(tmp_path)
    config = prepare(tiny_settings(tmp_path / "run", Path("codes")))[0].model.config
    assert config.codec == str(tmp_path / "codec") and config.text_tokenizer == str(tmp_path / "text.model")


def test_an_adapter_is_not_trained_into_the_folder_of_its_base(tmp_path: Path, codes: Path, base: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    settings = tiny_settings(tmp_path / "base", codes, preset=None, model_name_or_path=str(tmp_path / "base"))
    with pytest.raises(ValueError, match="base: holds the base model, which what is saved there needs"):
        prepare({**settings, "trainable": "lora"})


def test_the_second_run_in_a_folder_replaces_the_model_of_the_first(tmp_path: Path, codes: Path, base: Path) -> None:
    own: dict[str, Any] = {"preset": None, "model_name_or_path": str(base), "max_steps": 1, "save_strategy": "no"}
    for trainable, layout in (("lora", "adapter"), ("full", "moshi_ttt"), ("lora", "adapter")):
        run(tiny_settings(tmp_path / "run", codes, trainable=trainable, lora_rank=2, **own))
        loaded = MoshiTTTForConditionalGeneration.from_pretrained(tmp_path / "run", output_loading_info=True)
        assert loaded[1]["layout"] == layout


def test_fresh_moments_need_a_schedule_that_depends_on_the_step_alone(tmp_path: Path, codes: Path) -> None:
    trainer, _ = prepare(tiny_settings(tmp_path / "run", codes))
    trainer.create_optimizer()
    trainer.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(trainer.optimizer)
    trainer.fresh_optimizer = True
    with pytest.raises(ValueError, match="lr_scheduler_type='cosine' does not depend only on the step: with reset"):
        trainer._load_optimizer_and_scheduler("checkpoint-4")
